"""A run that is killed again and again ends with the same bytes as one that is left alone.

By hand, ten kills at other moments:

    SLIPWAY_TEST_KILLS=10 SLIPWAY_TEST_SEED=11 pytest tests/pipelines/test_killed_run.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_project import write_small_project

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "2"))


# Up to the metrics; registering adds no byte to them. The registries of Feast and MLflow are tested elsewhere.
COMMAND = [sys.executable, "-m", "slipway.cli.main", "run", "--step", "evaluate"]
ENVIRONMENT = os.environ | {"SLIPWAY_FEAST": "0", "OMP_NUM_THREADS": "1"}


def run_to_the_end(folder: Path) -> dict[str, Any]:
    command = [*COMMAND, "-o", "json"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def contents(report: dict[str, Any]) -> dict[str, bytes]:
    """Returns {step/file: bytes} of the dataset, the features, the model and the evaluation."""
    found = {}
    for step in report["steps"]:
        for output in map(Path, step["outputs"].values()):
            files = [path for path in output.rglob("*") if path.is_file()]
            found |= {f"{step['step']}/{path.relative_to(output)}": path.read_bytes() for path in files}
    return found


@pytest.mark.end_to_end
@pytest.mark.timeout(120 + 120 * KILLS)
def test_a_killed_run_ends_with_the_same_weights_and_metrics(tmp_path: Path) -> None:
    alone = write_small_project(tmp_path / "alone")
    started = time.monotonic()
    reference = run_to_the_end(alone)
    duration = time.monotonic() - started
    assert [step["status"] for step in reference["steps"]] == ["ran"] * 4

    chance = random.Random(os.environ.get("SLIPWAY_TEST_SEED", "3"))
    killed = write_small_project(tmp_path / "killed")
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            [*COMMAND, "--name", "mine"],
            cwd=killed,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=chance.uniform(0.2, 0.9) * duration)
            # It had been killed so far on that little was left: only kills count, so begin anew.
            shutil.rmtree(killed / ".slipway")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    report = run_to_the_end(killed)
    found, expected = contents(report), contents(reference)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not list((killed / ".slipway" / "cache").rglob(".*partial*"))
