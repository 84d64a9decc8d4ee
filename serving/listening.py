"""uvicorn that leaves signals to its process, and sockets that are bound with an error that helps."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from slipway.contracts.errors import EnvironmentProblemError


class UnsignalledServer(uvicorn.Server):
    """A uvicorn server that installs no signal handlers: its process decides what comes before the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Binds a TCP socket without listening: until the server is ready, connections are refused, not left waiting.

    Raises:
        EnvironmentProblemError: The port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise EnvironmentProblemError(
            f"port {port} cannot be opened ({error.strerror})",
            where=f"{host}:{port}",
            remedy="Stop what listens there, or choose another port.",
        ) from error
    return listener
