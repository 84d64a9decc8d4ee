"""Runs the step from the command line."""

from slipway.components.batch_predict.step import BatchPredictRequest, run
from slipway.components.harness import main

if __name__ == "__main__":
    raise SystemExit(main("batch_predict", BatchPredictRequest, run))
