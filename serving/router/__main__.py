"""python -m slipway.serving.router: sends each user to the version that the assignment file gives them."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from slipway.contracts.errors import SlipwayError
from slipway.serving.exposition import serve_metrics
from slipway.serving.listening import bind
from slipway.serving.router.assignment_file import AssignmentFile
from slipway.serving.router.metrics import RouterMetrics
from slipway.serving.router.server import Router

_WAIT_SECONDS = 0.1


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the options, `upstream` as (host, port); exits with code 2 and a usage line when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m slipway.serving.router",
        description="Assigns users to arms by a salted hash and forwards their requests.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="http://host:port that routes by the header x-slipway-arm")
    parser.add_argument("--assignment", type=Path, required=True, help="JSON with salt, layer and arms; watched")
    parser.add_argument("--metrics-port", type=int, help="/metrics in the format of Prometheus; none if not given")
    # The gateway in front refuses what the project does not allow; this one bounds memory.
    parser.add_argument("--maximum-body", type=int, default=64 << 20, help="greatest request body in bytes")
    parser.add_argument("--grace-seconds", type=float, default=30.0, help="for requests in flight at the end")
    options = parser.parse_args(arguments)
    try:
        address = urlsplit(options.upstream)
        options.upstream = (address.hostname, address.port or 80)
    except ValueError as error:
        parser.error(f"--upstream: {error}")
    if address.scheme != "http" or not address.hostname or address.path not in ("", "/"):
        parser.error("--upstream must be http://host:port")
    if options.maximum_body < 1 or options.grace_seconds < 0:
        parser.error("--maximum-body must be at least 1, --grace-seconds at least 0")
    return options


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = bind(options.host, options.port)
    metrics = RouterMetrics()
    file = AssignmentFile(options.assignment)
    file.refresh()
    while file.current is None and not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), _WAIT_SECONDS)
        except TimeoutError:
            file.refresh()
    if file.current is not None:
        host, port = options.upstream
        router = Router(file, metrics, host=host, port=port, maximum_body=options.maximum_body)
        metrics.show_file(valid=file.problem is None)
        if options.metrics_port is not None:
            serve_metrics(metrics.registry, host=options.host, port=options.metrics_port)
        gc.freeze()
        await router.serve(listener, stop, grace=options.grace_seconds)
    listener.close()


def main() -> int:
    """Returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    options = parse_arguments()
    try:
        uvloop.run(_serve(options))
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
