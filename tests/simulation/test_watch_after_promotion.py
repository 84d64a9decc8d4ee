"""A simulation that goes on through the watch after promotion, by `decide()` itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slipway.contracts.errors import UsageError
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.cells import CellSpec, simulate_chunk
from slipway.serving.rollout.simulation.effects import parse_effect
from slipway.serving.rollout.simulation.endings import Ending
from slipway.serving.rollout.simulation.rollouts import Rollouts
from slipway.serving.rollout.simulation.study import Study, check_study
from slipway.serving.rollout.simulation.traffic import TrafficModel, event_rates

POLICY: dict[str, Any] = {
    "steps": [
        {"weight": 50, "minimum_dwell": "45s", "deadline": "8m"},
        {"weight": 100, "minimum_dwell": "30s", "minimum_samples": 0},
    ],
    "guardrails": [{"name": "errors", "kind": "errors", "margin": {"odds_ratio": 2.0}}],
    "watch": {"duration": "10m", "control": 10},
    "deadline": "20m",
}


def simulated(effect: str, *, watch: bool, healthy_for: float = 0.0) -> Rollouts:
    policy = RolloutPolicy.model_validate(POLICY)
    traffic = TrafficModel(100, 15, event_rates(policy, {}), healthy_for=healthy_for)
    spec = CellSpec(policy, "constant", traffic, parse_effect(effect), runs=3, seed=1, watch=watch)
    return simulate_chunk((spec, 0)).rollouts


def test_harm_that_begins_after_promotion_is_taken_back_within_the_watch() -> None:
    promoted = simulated("errors+10", watch=False, healthy_for=600)
    assert (promoted.ending == Ending.PROMOTED).all()
    assert promoted.seconds.max() < 600
    watched = simulated("errors+10", watch=True, healthy_for=600)
    assert (watched.ending == Ending.HARM).all()
    assert np.all((watched.seconds > 600) & (watched.seconds <= 720))


def test_a_good_candidate_is_promoted_when_the_watch_has_ended() -> None:
    before, after = simulated("none", watch=False), simulated("none", watch=True)
    assert (after.ending == Ending.PROMOTED).all()
    assert (after.seconds - before.seconds >= 600).all()


def test_a_policy_without_a_watch_is_told_so() -> None:
    policy = RolloutPolicy.model_validate({**POLICY, "watch": {}})
    with pytest.raises(UsageError, match="no watch"):
        check_study(Study(policy, event_rates(policy, {}), [parse_effect("none")], watch=True))
