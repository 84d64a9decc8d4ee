"""Keeps the online store filled: each features artifact is written once for every life of the Redis process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.logs import last_lines
from slipway.serving.local.materialize import ARTIFACT_PROBLEM
from slipway.serving.local.records import MARK

LOG = "features"
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
# Predictors answer with default features when the store is away, so that serving does not wait for it for ever.
_PATIENCE_SECONDS = 20.0


class LoadState(Enum):
    """Whether an arm that reads these features may start."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"  # the artifact itself cannot be used
    WITHOUT = "without"  # the store could not be written in time; answers use default features meanwhile


@dataclass
class _Load:
    generation: tuple[int, float]
    since: float
    state: LoadState = LoadState.WAITING
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    next_try: float = 0.0
    problem: str | None = None


class FeatureLoads:
    """Runs the short processes that fill the online store.

    Args:
        layout: Where the log is kept.
        project: Name space of the features.
        say: Receives one line about everything that happens.
    """

    def __init__(self, layout: PlaneLayout, project: str, say: Callable[[str], None]) -> None:
        self._layout = layout
        self._project = project
        self._say = say
        self._loads: dict[Path, _Load] = {}

    def ensure(self, features: Path, redis_url: str, generation: tuple[int, float] | None) -> LoadState:
        """Brings the artifact's values into the store; called at every tick, never waits.

        Args:
            features: The features artifact.
            redis_url: The store.
            generation: Id and start time of the Redis process, None while it is not ready. A new process is empty.
        """
        now = time.monotonic()
        load = self._loads.get(features)
        if load is None:
            load = self._loads[features] = _Load((0, 0.0), since=now)
        if generation is not None and load.generation != generation:
            self._stop(load)
            load = self._loads[features] = _Load(generation, since=now)
        if load.process is not None:
            self._look(features, load, now)
        elif generation is not None and load.state is not LoadState.DONE and now >= load.next_try:
            load.process = self._spawn(features, redis_url)
        if load.state is LoadState.WAITING and now - load.since > _PATIENCE_SECONDS:
            load.state = LoadState.WITHOUT
            load.problem = load.problem or "the online store is not ready; answers use default features"
            self._say(f"features of {features}: {load.problem}")
        return load.state

    def problem(self, features: Path) -> str | None:
        """Returns why the values are not in the store, or None."""
        load = self._loads.get(features)
        return None if load is None or load.state is LoadState.DONE else load.problem

    def forget_others(self, wanted: set[Path]) -> None:
        """Drops what no arm reads any more; an artifact that comes back is written again."""
        for features in set(self._loads) - wanted:
            self._stop(self._loads.pop(features))

    def stop(self) -> None:
        """Ends the processes at work."""
        self.forget_others(set())

    def _look(self, features: Path, load: _Load, now: float) -> None:
        assert load.process is not None
        status = load.process.poll()
        if status is None:
            return
        load.process = None
        if status == 0:
            load.state, load.problem, load.failures = LoadState.DONE, None, 0
            self._say(f"features of {features}: written to the online store")
            return
        load.failures += 1
        wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(load.failures - 1, 10))
        load.next_try = now + wait
        lines = last_lines(self._log, 1)
        load.problem = lines[-1].removeprefix("error: ") if lines else f"exit status {status}"
        if status == ARTIFACT_PROBLEM:
            load.state = LoadState.REFUSED
        self._say(f"features of {features}: {load.problem}; tried again in {wait:g} s")

    def _spawn(self, features: Path, redis_url: str) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "slipway.serving.local.materialize", "--features", str(features)),
            *("--redis", redis_url, "--project", self._project),
        ]
        self._layout.logs.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=os.environ | {MARK: str(self._layout.root), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self._layout.logs / f"{LOG}.log"

    @staticmethod
    def _stop(load: _Load) -> None:
        if load.process is not None:
            load.process.kill()
            load.process.wait()
            load.process = None
