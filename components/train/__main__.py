"""Runs the step from the command line."""

from slipway.components.harness import main
from slipway.components.train.step import TrainRequest, run

if __name__ == "__main__":
    raise SystemExit(main("train", TrainRequest, run))
