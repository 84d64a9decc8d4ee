"""Serving the page until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket

import uvicorn

from slipway.contracts.errors import EnvironmentProblemError
from slipway.serving.listening import UnsignalledServer, bind
from slipway.serving.ui.app import Page

FIRST_PORT = 8765
_TRIED = 50


def open_port(host: str, port: int | None) -> socket.socket:
    """Returns a bound socket: at `port`, or at the first free one from 8765 on.

    Raises:
        EnvironmentProblemError: The port is taken.
    """
    if port is not None:
        return bind(host, port)
    for candidate in range(FIRST_PORT, FIRST_PORT + _TRIED - 1):
        try:
            return bind(host, candidate)
        except EnvironmentProblemError:
            continue
    return bind(host, FIRST_PORT + _TRIED - 1)


async def serve(page: Page, listener: socket.socket) -> None:
    """Answers until SIGINT or SIGTERM; open streams are ended, not waited for."""
    config = uvicorn.Config(
        page.application,
        lifespan="off",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = UnsignalledServer(config)

    def stop() -> None:
        page.streams.stop()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve(sockets=[listener])
