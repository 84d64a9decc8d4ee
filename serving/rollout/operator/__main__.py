"""`python -m slipway.serving.rollout.operator`: runs the Rollouts of a cluster until SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from slipway.contracts.errors import SlipwayError
from slipway.serving.rollout.operator.operator import Operator
from slipway.serving.rollout.operator.settings import parse_arguments


def main() -> int:
    """Returns the exit code."""
    settings = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name, level in (("httpx", logging.WARNING), ("kopf", logging.ERROR), ("urllib3", logging.ERROR)):
        logging.getLogger(name).setLevel(level)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        return Operator(settings).run(stop)
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
