"""`python -m slipway.serving.local --project DIR`: the supervisor of a project's plane; `slipway up` starts it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slipway.contracts.errors import SlipwayError
from slipway.serving.local.settings import read_settings
from slipway.serving.local.supervisor import Supervisor


def main() -> int:
    """Runs until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m slipway.serving.local", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder of the project file")
    arguments = parser.parse_args()
    try:
        Supervisor(read_settings(arguments.project)).run()
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
