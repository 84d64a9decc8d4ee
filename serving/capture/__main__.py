"""python -m slipway.serving.capture: the feedback collector of one project."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from slipway.contracts.errors import SlipwayError
from slipway.contracts.events import RequestSigner, signing_key
from slipway.serving.capture.app import Collector, clockwork
from slipway.serving.capture.users import LocalUsers, RedisUsers, UserMemory
from slipway.serving.exposition import serve_metrics
from slipway.serving.listening import UnsignalledServer, bind


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the options; exits with code 2 and a usage line when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m slipway.serving.capture",
        description="Joins feedback to predictions by signed request id.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True, help="key that signs request ids; made if absent")
    parser.add_argument("--wait", type=float, default=2.0, help="seconds in which feedback counts for its request")
    parser.add_argument("--expiry", type=float, default=3600.0, help="seconds after which a request id is refused")
    parser.add_argument("--directory", type=Path, required=True, help="where captured events are written")
    parser.add_argument("--retention-days", type=float, default=30.0, help="captured events are removed after so long")
    parser.add_argument("--maximum-requests", type=int, default=200_000, help="requests remembered")
    parser.add_argument("--arm", action="append", default=[], help="model:version whose counters exist from the start")
    parser.add_argument("--redis", help="redis:// address where users are remembered; in this process if not given")
    parser.add_argument("--project", default="default", help="keeps the users of projects apart in one Redis")
    parser.add_argument("--maximum-users", type=int, default=2_000_000, help="users of a model that are remembered")
    parser.add_argument(
        "--value",
        action="append",
        default=[],
        type=_value,
        metavar="TYPE=MAXIMUM",
        help="type of feedback whose values are added up, and the most that one request or user counts with",
    )
    options = parser.parse_args(arguments)
    if options.wait <= 0 or options.expiry < options.wait or options.maximum_requests < 1:
        parser.error("wait must be above 0, expiry at least wait, and maximum-requests at least 1")
    return options


def _value(text: str) -> tuple[str, float]:
    kind, _, maximum = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,63}", kind) or not 0 < float(maximum) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a type and its largest value, such as watch=3600")
    return kind, float(maximum)


def _users(options: argparse.Namespace) -> UserMemory:
    if options.redis is None:
        return LocalUsers(maximum=options.maximum_users)
    return RedisUsers(options.redis, project=options.project, maximum=options.maximum_users)


async def _serve(options: argparse.Namespace) -> None:
    signer = RequestSigner(signing_key(options.key_file))
    users = _users(options)
    collector = Collector(
        signer,
        wait=options.wait,
        expiry=options.expiry,
        directory=options.directory,
        retention_days=options.retention_days,
        maximum_requests=options.maximum_requests,
        users=users,
        maxima=dict(options.value),
    )
    for arm in options.arm:
        model, _, version = arm.partition(":")
        collector.metrics.know(model, version)
    serve_metrics(collector.metrics.registry, host=options.host, port=options.metrics_port)
    listener = bind(options.host, options.port)
    config = uvicorn.Config(
        collector,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    server = UnsignalledServer(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, setattr, server, "should_exit", True)
    async with clockwork(collector):
        await server.serve(sockets=[listener])
    await users.close()


def main() -> int:
    """Returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    options = parse_arguments()
    try:
        asyncio.run(_serve(options))
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
