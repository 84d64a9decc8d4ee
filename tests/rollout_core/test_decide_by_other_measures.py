"""Whole rollouts decided by means, histograms, several objectives and improvement, from stored state at every look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from rollout_world import CANDIDATE, FAST, STABLE, World

from slipway.contracts.rollout import ASSIGNMENT, RolloutPolicy
from slipway.serving.rollout.core.observations import WindowCount, WindowHistogram, WindowMoments
from slipway.serving.rollout.core.types import Phase, State

WATCH = {
    "name": "watch", "kind": "mean", "value": "watch", "maximum": 60.0, "direction": "higher",
    "margin": {"absolute": 3.0},
}  # fmt: skip
SCORES = {"name": "scores", "kind": "scores", "margin": {"absolute": 0.25}, "requires": "noHarm"}
SLOW = {"name": "slow", "kind": "latency", "objectives": [0.05, 0.25], "margin": {"odds_ratio": 1.5, "absolute": 0.05}}
CLICKS = {"name": "clicks", "kind": "clicks", "unit": "user", "margin": {"odds_ratio": 0.95}, "requires": "better"}


@dataclass
class WiderWorld(World):
    """Shows means, histograms and two latency objectives besides what counts there are."""

    watched: float = 0.2
    shift: float = 0.0
    slow: float = 0.005
    clicked: float = 0.3

    def look(self, *commands: Any, **changes: Any) -> State:
        start, end = self.now, self.now + 1
        counts, moments, histograms = [], [], []
        share = self.weights.get(CANDIDATE, 0) / 100
        for arm, n, own in ((CANDIDATE, round(400 * share), True), (STABLE, round(400 * (1 - share)), False)):
            values = self.rng.beta(1, 1, n) * (self.rng.random(n) < 2 * (self.watched if own else 0.2))
            moments.append(WindowMoments("watch", arm, start, end, n, float(values.sum()), float((values**2).sum())))
            law = np.exp(-0.5 * ((np.arange(27) - 13 - (self.shift if own else 0.0)) / 4) ** 2)
            drawn = self.rng.multinomial(n, law / law.sum())
            histograms.append(WindowHistogram("scores", arm, start, end, tuple(float(one) for one in drawn)))
            rates = {"slow@0.05": 0.05, "slow@0.25": self.slow if own else 0.005}
            rates["clicks"] = self.clicked if own else 0.3
            for name, rate in rates.items():
                counts.append(WindowCount(name, arm, start, end, int(self.rng.binomial(n, rate)), n))
            counts.append(WindowCount(ASSIGNMENT, arm, start, end, 0, n))
        seen = {"counts": tuple(counts), "moments": tuple(moments), "histograms": tuple(histograms)}
        return super().look(*commands, **(seen | changes))


def world(*guardrails: dict[str, Any], **fields: Any) -> WiderWorld:
    steps = [{**step, "deadline": "200s"} for step in FAST["steps"]]
    policy = RolloutPolicy.model_validate(
        {**FAST, "steps": steps, "inconclusive": "rollback", "guardrails": guardrails}
    )
    return WiderWorld(policy, seed=61, **fields)


def test_a_candidate_as_good_by_every_measure_is_promoted() -> None:
    assert world(WATCH, SCORES, SLOW).to_end().phase is Phase.PROMOTED


@pytest.mark.parametrize(
    ("fault", "guardrail"),
    [({"watched": 0.08}, "watch"), ({"shift": 7.0}, "scores"), ({"slow": 0.12}, "slow")],
)
def test_a_candidate_that_is_worse_by_one_measure_goes_back_for_it(fault: dict[str, float], guardrail: str) -> None:
    ended = world(WATCH, SCORES, SLOW, **fault).to_end()
    assert ended.phase is Phase.ROLLED_BACK
    assert f"Evidence of harm. {guardrail}: " in ended.reason


@pytest.mark.parametrize(("clicked", "phase"), [(0.36, Phase.PROMOTED), (0.3, Phase.ROLLED_BACK)])
def test_where_clicks_must_get_better_an_equal_candidate_goes_back_at_the_deadline(
    clicked: float, phase: Phase
) -> None:
    clicks = {**CLICKS, "requires": None}
    steps = [{"weight": 50, "minimum_dwell": "3s", "deadline": "120s", "requires": "better"}, FAST["steps"][3]]
    policy = RolloutPolicy.model_validate({**FAST, "steps": steps, "inconclusive": "rollback", "guardrails": [clicks]})
    ended = WiderWorld(policy, seed=62, clicked=clicked).to_end()
    assert ended.phase is phase
    if phase is Phase.ROLLED_BACK:
        assert "reached its deadline" in ended.reason


@pytest.mark.parametrize("missing", ["moments", "histograms"])
def test_readings_that_stay_away_are_no_data_for_these_measures_too(missing: str) -> None:
    running = world(WATCH, SCORES)
    running.until(lambda state: state.step == 1)
    for _ in range(60):
        running.look(**{missing: ()})
        if running.state.terminal:
            break
    assert running.state.phase is Phase.ROLLED_BACK
    assert f"No usable reading of {'watch' if missing == 'moments' else 'scores'}" in running.state.reason
