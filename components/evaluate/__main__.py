"""Runs the step from the command line."""

from slipway.components.evaluate.step import EvaluateRequest, run
from slipway.components.harness import main

if __name__ == "__main__":
    raise SystemExit(main("evaluate", EvaluateRequest, run))
