"""Runs the step from the command line."""

from slipway.components.featurize.step import FeaturizeRequest, run
from slipway.components.harness import main

if __name__ == "__main__":
    raise SystemExit(main("featurize", FeaturizeRequest, run))
