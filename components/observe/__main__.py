"""Runs the step from the command line."""

from slipway.components.harness import main
from slipway.components.observe.step import ObserveRequest, run

if __name__ == "__main__":
    raise SystemExit(main("observe", ObserveRequest, run))
