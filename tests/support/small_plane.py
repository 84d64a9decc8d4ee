"""A real plane (Redis, Prometheus, Traefik, supervisor, rollout controller) over small predictors, with traffic."""

from __future__ import annotations

import contextlib
import http.client
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout_playback import CANDIDATE, STABLE, spec_of
from served_page import eventually

from slipway.contracts.rollout import RolloutSpec
from slipway.serving.local import control
from slipway.serving.local.desired import Arm, Desired, write_desired
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.observed import read_observed
from slipway.serving.local.records import marked_processes
from slipway.serving.local.settings import PlaneSettings
from slipway.serving.rollout.store import RolloutFolder, RolloutStore

SMALL_PREDICTOR = Path(__file__).parents[1] / "ui" / "small_predictor.py"


def errors_only(name: str, version: int = 2, **policy: Any) -> RolloutSpec:
    """Returns a rollout that judges errors and latency, and stays at its first step until a person says otherwise."""
    return spec_of(
        name,
        version,
        steps=[
            {"weight": 30, "minimum_dwell": "10m", "minimum_samples": 50, "gate": True},
            {"weight": 100, "minimum_dwell": "1s", "minimum_samples": 0},
        ],
        guardrails=[
            {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.05}},
            {"name": "latency", "kind": "latency", "objective": 0.5, "margin": {"odds_ratio": 1.5, "absolute": 0.05}},
        ],
        **policy,
    )


@contextlib.contextmanager
def small_plane(directory: Path, **changes: Any) -> Iterator[Path]:
    """Runs a plane that serves version 1; nothing of it is left afterwards."""
    settings = PlaneSettings(
        project="films",
        directory=directory,
        gateway_port=18_480,
        scrape_interval=0.2,
        drain_seconds=2.0,
        grace_seconds=5.0,
        replicas=1,
        collector=False,
        predictor_command=(sys.executable, str(SMALL_PREDICTOR)),
        **changes,
    )
    write_desired(directory, Desired(arms=(arm_of(directory, STABLE),), weights={STABLE: 100}))
    try:
        control.start(settings)
        control.wait_until_ready(directory, seconds=60)
        yield directory
    finally:
        control.stop(directory)
        assert [process.pid for process in marked_processes(settings.layout.root)] == []


def arm_of(directory: Path, name: str, failures: float = 0.0) -> Arm:
    """Returns an arm of one small process, a share of whose answers fail."""
    version = name.rpartition("-v")[2]
    environment = {"SMALL_FAILURES": str(failures)}
    return Arm(name=name, model="films", version=version, bundle=directory, replicas=1, environment=environment)


def start_rollout(directory: Path, spec: RolloutSpec, failures: float = 0.0) -> RolloutFolder:
    """Hands a rollout to the controller."""
    candidate = spec.candidates[0].arm
    arms = {STABLE: arm_of(directory, STABLE), candidate: arm_of(directory, candidate, failures)}
    return RolloutStore(PlaneLayout(directory).rollouts).create(spec, arms)


@contextlib.contextmanager
def traffic(directory: Path, *, clients: int = 2, per_second: float = 120.0) -> Iterator[None]:
    """Has clients ask the gateway until the block ends."""
    port = int(read_observed(directory).endpoints["gateway"].rsplit(":", 1)[1])
    ends = threading.Event()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not ends.wait(clients / per_second):
            try:
                connection.request("POST", "/v1/models/films:predict", b'{"instances": [{"user": "7"}]}')
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def phase_of(folder: RolloutFolder) -> str:
    """Returns the phase that the controller wrote last."""
    record = folder.read()
    return "" if record is None else str(record.state.phase)


def wait_for_phase(folder: RolloutFolder, phase: str, seconds: float = 40.0) -> None:
    """Waits until the rollout is in a phase."""
    eventually(lambda: phase_of(folder) == phase, seconds, f"phase {phase} (now {phase_of(folder)})")


def wait_for_samples(folder: RolloutFolder, samples: int) -> None:
    """Waits until every guardrail has so many requests of the candidate."""

    def enough() -> bool:
        record = folder.read()
        judged = [] if record is None else [v for v in record.state.verdicts if v.arm == CANDIDATE]
        return bool(judged) and all(verdict.samples >= samples for verdict in judged)

    eventually(enough, 40.0, f"{samples} samples")
