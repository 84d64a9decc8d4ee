"""Runs the step from the command line."""

from slipway.components.harness import main
from slipway.components.validate.step import ValidateRequest, run

if __name__ == "__main__":
    raise SystemExit(main("validate", ValidateRequest, run))
