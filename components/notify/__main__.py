"""Runs the step from the command line."""

from slipway.components.harness import main
from slipway.components.notify.step import NotifyRequest, run

if __name__ == "__main__":
    raise SystemExit(main("notify", NotifyRequest, run))
