"""A train step as a process of its own, and the processes that it starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from slipway.components.train.step import TrainRequest

FAMILY = "neural_collaborative_filtering"
PARAMETERS = {"factors": 8, "hidden": [16, 8], "epochs": 3, "batch_size": 512}


def train_request(
    features: Path, output: Path, processes: int = 1, checkpoint: Path | None = None, **parameters: Any
) -> TrainRequest:
    """Returns a request for a small network; MLflow is told nothing."""
    return TrainRequest.model_validate(
        {
            "features": features,
            "output": output,
            "model": {"family": FAMILY, "parameters": PARAMETERS | parameters, "device": "cpu"},
            "processes": processes,
            "checkpoint": checkpoint,
            "tracked": False,
        }
    )


def step_command(request: TrainRequest, outcome: Path) -> list[str]:
    """Returns the command of the step, its request in a file in `outcome`."""
    outcome.mkdir(parents=True, exist_ok=True)
    file = outcome / "request.json"
    file.write_text(request.model_dump_json())
    return [sys.executable, "-m", "slipway.components.train", "--request", str(file), "--outcome", str(outcome)]


def start_step(request: TrainRequest, outcome: Path) -> subprocess.Popen[bytes]:
    """Starts the step; its log comes through stderr."""
    return subprocess.Popen(step_command(request, outcome), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def processes_of(step: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Returns the two processes of a step by rank, which is in their environment; none before both have it."""
    try:
        found = {int(child.environ()["RANK"]): child for child in psutil.Process(step.pid).children()}
    except (KeyError, psutil.Error):
        return []
    return [found[rank] for rank in sorted(found)] if len(found) == 2 else []


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Polls until the condition gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")
