"""Feeds windows to the core's evidence and returns its verdicts, without a plane around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.ingest import fresh_step, ingest
from slipway.serving.rollout.core.judge import judge
from slipway.serving.rollout.core.observations import Observations, Target, WindowCount, WindowHistogram, WindowMoments
from slipway.serving.rollout.core.types import Phase, State, Verdict

STABLE, CANDIDATE = "films-v1", "films-v2"
STEPS = [
    {"weight": 5, "minimum_samples": 10},
    {"weight": 50, "minimum_samples": 10},
    {"weight": 100, "minimum_samples": 0},
]


def policy_of(*guardrails: Mapping[str, Any], **fields: Any) -> RolloutPolicy:
    return RolloutPolicy.model_validate({"steps": STEPS, "guardrails": guardrails, **fields})


@dataclass
class Court:
    """A rollout at one step, judged after each window of one second."""

    policy: RolloutPolicy
    step: int = 1
    candidates: tuple[str, ...] = (CANDIDATE,)
    now: float = 0.0
    state: State = field(init=False)

    def __post_init__(self) -> None:
        weight = self.policy.steps[self.step].weight
        self.state = State(
            phase=Phase.PROGRESSING,
            candidates=tuple(Target(arm, arm[-1]) for arm in self.candidates),
            stable=Target(STABLE, "1"),
            started=0.0,
            phase_since=0.0,
            step=self.step,
            step_since=0.0,
            traffic_since=0.0,
            weights={STABLE: 100 - weight * len(self.candidates), **dict.fromkeys(self.candidates, weight)},
        )

    def to_step(self, step: int) -> None:
        self.state = replace(fresh_step(self.state), step=step, step_since=self.now)

    def count(self, name: str, candidate: tuple[int, int], stable: tuple[int, int]) -> None:
        """Takes one window of (events, n) for each arm."""
        self.counts([(name, CANDIDATE, *candidate), (name, STABLE, *stable)])

    def counts(self, windows: Iterable[tuple[str, str, int, int]]) -> None:
        end = self.now + 1
        self._take(Observations(end, counts=tuple(WindowCount(g, a, self.now, end, e, n) for g, a, e, n in windows)))

    def moments(self, name: str, candidate: tuple[float, float, float], stable: tuple[float, float, float]) -> None:
        """Takes one window of (n, sum, sum of squares) for each arm."""
        end = self.now + 1
        arms = ((CANDIDATE, candidate), (STABLE, stable))
        self._take(Observations(end, moments=tuple(WindowMoments(name, a, self.now, end, *m) for a, m in arms)))

    def histogram(self, name: str, candidate: Iterable[float], stable: Iterable[float]) -> None:
        """Takes one window of counts by bucket for each arm."""
        end = self.now + 1
        arms = ((CANDIDATE, candidate), (STABLE, stable))
        self._take(
            Observations(
                end, histograms=tuple(WindowHistogram(name, a, self.now, end, tuple(map(float, c))) for a, c in arms)
            )
        )

    def verdict(self, name: str, arm: str = CANDIDATE) -> Verdict:
        verdicts = judge(self.state, Observations(self.now), self.policy, self.now)
        return next(verdict for verdict in verdicts if (verdict.guardrail, verdict.arm) == (name, arm))

    def _take(self, observations: Observations) -> None:
        self.now = observations.at
        self.state = ingest(self.state, observations, self.policy, self.now)
