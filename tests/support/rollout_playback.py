"""Rollouts on disk as a controller leaves them: played through `decide` on a made-up plane, or ended long ago."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.observations import ArmObservation, Observations, SmokeTestResult, WindowCount
from slipway.serving.rollout.core.serialization import to_plain
from slipway.serving.rollout.core.types import (
    Phase,
    RecordEvent,
    RecordVerdicts,
    SetWeights,
    SmokeTest,
    StartArm,
    StopArm,
)
from slipway.serving.rollout.history_lines import add_readings, standing
from slipway.serving.rollout.store import Record, RolloutFolder, RolloutStore

START = 1_800_000_000.0
STABLE, CANDIDATE = "films-v1", "films-v2"


def spec_of(name: str, version: int = 2, **policy: Any) -> RolloutSpec:
    """Returns a rollout of films over version 1, with errors and clicks judged."""
    document: dict[str, Any] = {
        "steps": [
            {"weight": 20, "minimum_dwell": "5s", "minimum_samples": 50},
            {"weight": 50, "minimum_dwell": "20s", "minimum_samples": 50, "gate": True},
            {"weight": 100, "minimum_dwell": "1s", "minimum_samples": 0},
        ],
        "guardrails": [
            {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.01}},
            {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.8}},
        ],
    }
    return RolloutSpec(
        id=name,
        model="films",
        candidates=(ArmTarget(arm=f"films-v{version}", version=str(version), digest=f"digest-{version}"),),
        stable=ArmTarget(arm=STABLE, version="1", digest="digest-1"),
        policy=RolloutPolicy.model_validate(document | policy),
    )


class Player:
    """Plays a rollout through `decide` on a made-up plane, and writes it down as the controller does.

    Args:
        folder: The rollout.
        error_rate: Failed requests of the candidate.
        click_rate: Clicked requests of the candidate; stable has 0.2.
    """

    def __init__(self, folder: RolloutFolder, *, error_rate: float = 0.0, click_rate: float = 0.2) -> None:
        self.folder = folder
        self.spec = folder.spec
        self.now = START
        self.record = Record(new_state(self.spec, START))
        self._rates = {"errors": (error_rate, 0.0), "clicks": (click_rate, 0.2)}
        self._draw = random.Random(7)
        self._running = {STABLE}
        self._weights = {STABLE: 100}
        self._smoke_test: SmokeTestResult | None = None

    def play(self, looks: int) -> Player:
        """Looks so many times, a second apart."""
        for _ in range(looks):
            self.look()
        return self

    def look(self) -> None:
        """Observes, decides, writes down, and does what was decided."""
        record, spec = self.record, self.spec
        windows = self._windows()
        self.now += 1.0
        seen = Observations(
            at=self.now,
            arms={
                arm: ArmObservation(ready=2, total=2, weight_applied=self._weights.get(arm, 0)) for arm in self._running
            },
            counts=windows,
            commands=self.folder.commands(),
            smoke_test=self._smoke_test,
            champion="1",
        )
        state, actions = decide(record.state, seen, spec.policy, self.now)
        record.state = state
        record.readings = add_readings(record.readings, seen, state)
        lines: list[dict[str, Any]] = []
        for action in actions:
            match action:
                case RecordEvent():
                    lines.append({"type": "event", **to_plain(action), **standing(state)})
                case RecordVerdicts():
                    kept = {"rule": state.reason, "readings": record.readings, "queries": QUERIES}
                    lines.append({"type": "verdicts", **kept, **to_plain(action), **standing(state)})
                    record.readings = []
                case StartArm(arm=arm):
                    self._running.add(arm)
                case StopArm(arm=arm):
                    self._running.discard(arm)
                case SetWeights():
                    self._weights = dict(action.weights)
                case SmokeTest(arm=arm):
                    self._smoke_test = SmokeTestResult(arm, passed=True)
                case _:
                    pass
        self.folder.write(record, lines)
        self.folder.clear(state.handled)

    def _windows(self) -> tuple[WindowCount, ...]:
        windows = []
        for arm in sorted(self._running):
            n = round(100 * self._weights.get(arm, 0) / 100)
            windows.append(WindowCount(ASSIGNMENT, arm, self.now, self.now + 1.0, n, n))
            for guardrail, (candidate, stable) in self._rates.items():
                rate = stable if arm == STABLE else candidate
                events = sum(self._draw.random() < rate for _ in range(n))
                windows.append(WindowCount(guardrail, arm, self.now, self.now + 1.0, events, n))
        return tuple(windows)


QUERIES = {"errors": {CANDIDATE: 'requests_total{code=~"5.."} out of requests_total', STABLE: "a out of b"}}


def create(directory: Path, spec: RolloutSpec) -> RolloutFolder:
    """Hands a rollout to the store of a project."""
    return RolloutStore(PlaneLayout(directory).rollouts).create(spec, {})


def end_as(folder: RolloutFolder, phase: Phase, reason: str, at: float) -> None:
    """Writes a rollout that has ended, with the events of its start and its end."""
    state = replace(new_state(folder.spec, at), phase=phase, reason=reason, phase_since=at + 60)
    lines = [
        {"type": "event", **to_plain(RecordEvent(at, "phase", "Pending -> Starting: begins.")), **standing(state)},
        {"type": "event", **to_plain(RecordEvent(at + 60, "phase", f"... -> {phase}: {reason}")), **standing(state)},
    ]
    folder.write(Record(state), lines)


def history_of(directory: Path, number: int) -> None:
    """Leaves so many rollouts that have ended, every third of them taken back."""
    # They need not outlive a loss of power, and a thousand of these calls take seconds.
    with patch("os.fsync"):
        for index in range(number):
            spec = spec_of(f"20270101-{index:06d}-000-films-v{index + 2}", version=index + 2)
            back = index % 3 == 2
            phase = Phase.ROLLED_BACK if back else Phase.PROMOTED
            reason = "Evidence of harm. errors: failed requests: 9 % of 200." if back else "Serves all traffic."
            end_as(create(directory, spec), phase, reason, START - 1000 * (number - index))
