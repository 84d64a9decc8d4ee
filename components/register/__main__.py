"""Runs the step from the command line."""

from slipway.components.harness import main
from slipway.components.register.step import RegisterRequest, run

if __name__ == "__main__":
    raise SystemExit(main("register", RegisterRequest, run))
