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

from slipway.models.registry import registry_for

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "2"))


# Feast's registry is tested elsewhere.
COMMAND = [sys.executable, "-m", "slipway.cli.main", "run"]
ENVIRONMENT = os.environ | {"SLIPWAY_FEAST": "0", "OMP_NUM_THREADS": "1"}


def run_to_the_end(folder: Path) -> dict[str, Any]:
    command = [*COMMAND, "-o", "json"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def contents(report: dict[str, Any], project: Path) -> dict[str, bytes]:
    """Returns {step/file: bytes} of the dataset, the features, the model and the evaluation, and of the bundle."""
    folders = {"bundles": project / ".slipway" / "bundles"}
    for step in report["steps"]:
        if step["step"] != "register":  # its artifact names the bundle's folder
            folders |= {f"{step['step']}/{name}": Path(output) for name, output in step["outputs"].items()}
    return {
        f"{name}/{path.relative_to(folder)}": path.read_bytes()
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "card.md"  # names the run
    }


def versions(project: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Returns version, aliases and digest of everything that is registered."""
    registered = registry_for(project, None).list("small")
    return [(version.version, tuple(version.aliases), version.sha256) for version in registered]


def kill_during(step: str, delay: float, folder: Path) -> bool:
    """Kills a run `delay` seconds after it began a step; False if it ended before."""
    process = subprocess.Popen(
        [*COMMAND, "--name", f"run-{time.monotonic_ns()}"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.decode().startswith(f"{step}: started"):
            break
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    finally:
        process.stderr.close()
    return False


@pytest.mark.end_to_end
@pytest.mark.timeout(120 + 120 * KILLS)
def test_a_killed_run_ends_with_the_same_weights_and_metrics(tmp_path: Path) -> None:
    alone = write_small_project(tmp_path / "alone")
    reference = run_to_the_end(alone)
    assert [step["status"] for step in reference["steps"]] == ["ran"] * 5
    seconds = {step["step"]: step["seconds"] for step in reference["steps"]}

    chance = random.Random(os.environ.get("SLIPWAY_TEST_SEED", "3"))
    killed = write_small_project(tmp_path / "killed")
    kills = 0
    while kills < KILLS:
        finished = {folder.name for folder in (killed / ".slipway" / "cache").glob("*/")}
        step = chance.choice([step for step in seconds if step not in finished] or ["register"])
        kills += kill_during(step, chance.uniform(0.0, 1.0) * seconds[step], killed)
        if chance.random() < 0.2:
            shutil.rmtree(killed / ".slipway")  # begin anew: most kills would be late ones otherwise
    report = run_to_the_end(killed)
    found, expected = contents(report, killed), contents(reference, alone)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not list((killed / ".slipway" / "cache").rglob(".*partial*"))
    assert versions(killed) == versions(alone)
