"""Runs the step from the command line."""

from slipway.components.extract.step import ExtractRequest, run
from slipway.components.harness import main

if __name__ == "__main__":
    raise SystemExit(main("extract", ExtractRequest, run))
