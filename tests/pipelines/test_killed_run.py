"""A run that is killed again and again ends with the same bytes as one that is left alone.

By hand, ten kills:  SLIPWAY_TEST_KILLS=10 pytest tests/pipelines/test_killed_run.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_project import write_small_project

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "2"))


def slipway(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slipway.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def run_to_the_end(folder: Path) -> dict[str, Any]:
    done = slipway(folder, "run", "-o", "json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def contents(report: dict[str, Any]) -> dict[str, bytes]:
    """Returns {step/file: bytes} of the model, the features and the evaluation."""
    found = {}
    for step in report["steps"]:
        if step["step"] in ("validate", "featurize", "train", "evaluate"):
            for output in map(Path, step["outputs"].values()):
                files = [path for path in output.rglob("*") if path.is_file()]
                found |= {f"{step['step']}/{path.relative_to(output)}": path.read_bytes() for path in files}
    return found


@pytest.mark.end_to_end
def test_a_killed_run_ends_with_the_same_weights_and_metrics(tmp_path: Path) -> None:
    alone = write_small_project(tmp_path / "alone")
    started = time.monotonic()
    reference = run_to_the_end(alone)
    duration = time.monotonic() - started
    assert [step["status"] for step in reference["steps"]] == ["ran"] * 5

    again = run_to_the_end(alone)
    assert [step["status"] for step in again["steps"]] == ["cached"] * 5
    assert contents(again) == contents(reference)

    chance = random.Random(os.environ.get("SLIPWAY_TEST_SEED", "3"))
    killed = write_small_project(tmp_path / "killed")
    for number in range(KILLS):
        moment = chance.uniform(0.1, 1.0) * duration * (1 if number % 2 else 0.6)
        command = [sys.executable, "-m", "slipway.cli.main", "run", "--name", "mine"]
        process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        if process.returncode == 0:
            break  # finished before its moment came; what it made is compared below
    report = run_to_the_end(killed)
    found, expected = contents(report), contents(reference)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not list((killed / ".slipway" / "cache").rglob(".*partial*"))
