"""The kernel that decides many rollouts at once decides as `decide()` does, window by window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.effects import parse_effect
from slipway.serving.rollout.simulation.endings import Ending
from slipway.serving.rollout.simulation.kernel import Kernel, reason_against_kernel
from slipway.serving.rollout.simulation.replay import check
from slipway.serving.rollout.simulation.rollouts import Recording, Rollouts, run
from slipway.serving.rollout.simulation.traffic import TrafficModel, event_rates, scenario
from slipway.serving.rollout.simulation.windows import Traffic

QUICK: dict[str, Any] = {
    "steps": [
        {"weight": 10, "minimum_dwell": "45s", "deadline": "8m"},
        {"weight": 50, "minimum_dwell": "45s", "deadline": "8m"},
        {"weight": 100, "minimum_dwell": "30s", "minimum_samples": 0},
    ],
    "deadline": "20m",
}
ERRORS = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 2.0}, "harm_from": 1.5}
CLICKS = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.8}}
POLICIES: dict[str, dict[str, Any]] = {
    "default guardrails": QUICK,
    "rollback at the deadline": {**QUICK, "inconclusive": "rollback"},
    "proceed at the deadline, dry run": {
        **QUICK,
        "inconclusive": "proceed",
        "guardrails": [{**CLICKS, "margin": {"odds_ratio": 0.97}}, {**ERRORS, "dry_run": True}],
    },
    "hard limit on a good event": {
        **QUICK,
        "guardrails": [{**CLICKS, "hard_limit": {"rate": 0.12, "minimum_samples": 200}}, ERRORS],
    },
    "other margins at a step": {
        **QUICK,
        "steps": [{**QUICK["steps"][0], "margins": {"clicks": {"odds_ratio": 0.6}}}, *QUICK["steps"][1:]],
        "guardrails": [CLICKS, {**ERRORS, "margin": {"absolute": 0.01}, "harm_from": None}],
    },
    "better at the last step": {
        **QUICK,
        "guardrails": [{**CLICKS, "requires": "better", "minimum_lift": 1.02}, ERRORS],
    },
    "fixed horizon": {**QUICK, "horizon": "fixed", "guardrails": [CLICKS, ERRORS]},
    "early promotion": {**QUICK, "early_promotion": True, "guardrails": [CLICKS, ERRORS]},
}


def simulated(
    policy: RolloutPolicy, traffic: TrafficModel, effect: str, runs: int = 4, recorded: int = 2
) -> tuple[Recording, Rollouts]:
    """Returns what the kernel saw and decided."""
    recording = Recording.of(recorded)
    drawn = Traffic(traffic, parse_effect(effect), runs, np.random.SeedSequence(3))
    return recording, run(Kernel(policy, runs), drawn, policy.deadline + 600, recording=recording)


@pytest.mark.parametrize("effect", ["none", "errors+3", "clicks-30%", "clicks+15%"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_decision_of_a_policy_is_the_same(name: str, effect: str) -> None:
    policy = RolloutPolicy.model_validate(POLICIES[name])
    assert reason_against_kernel(policy) is None
    recording, rollouts = simulated(policy, TrafficModel(60, 15, event_rates(policy, {})), effect)
    agreement = check(policy, recording, rollouts)
    assert agreement.differences == ()
    assert agreement.decisions == int(rollouts.looks[:2].sum()) > 4


@pytest.mark.parametrize("kind", ["bursts", "bad-minutes", "gaps", "resets", "restarts", "sticky-users"])
def test_every_decision_is_the_same_on_difficult_traffic(kind: str) -> None:
    policy = RolloutPolicy.model_validate({**QUICK, "maximum_restarts": 0, "no_data": {"hold_for": "40s"}})
    model = replace(scenario(kind, TrafficModel(80, 15, event_rates(policy, {}))), users=500)
    if kind == "restarts":
        model = replace(model, restarts=20.0)
    if kind == "gaps":
        model = replace(model, scrape_gaps=0.5)
    recording, rollouts = simulated(policy, model, "errors+1", runs=6, recorded=3)
    agreement = check(policy, recording, rollouts)
    assert agreement.differences == ()
    assert agreement.decisions > 6
    if kind == "restarts":
        assert Ending.FAULT in rollouts.ending
    if kind == "gaps":
        assert Ending.NO_DATA in rollouts.ending


@pytest.mark.parametrize("kind", ["constant", "gaps", "resets"])
def test_every_decision_is_the_same_where_clicks_come_late(kind: str) -> None:
    policy = RolloutPolicy.model_validate({**QUICK, "no_data": {"hold_for": "4m"}})
    model = scenario(kind, TrafficModel(80, 15, event_rates(policy, {}), feedback_wait=60))
    for effect in ("none", "clicks-40%"):
        recording, rollouts = simulated(policy, model, effect)
        agreement = check(policy, recording, rollouts)
        assert agreement.differences == ()
        assert agreement.decisions > 6


@pytest.mark.parametrize(("preset", "window", "effect"), [("abTest", 7200, "none"), ("abTest", 7200, "clicks+6%"),
                                                          ("blueGreen", 15, "none"), ("blueGreen", 15, "errors+60"),
                                                          ("careful", 60, "clicks-20%")])  # fmt: skip
def test_presets_are_decided_the_same(preset: str, window: float, effect: str) -> None:
    policy = RolloutPolicy.model_validate({"preset": preset, "no_data": {"hold_for": "5h"}})
    recording, rollouts = simulated(policy, TrafficModel(20, window, event_rates(policy, {})), effect, recorded=1)
    agreement = check(policy, recording, rollouts)
    assert agreement.differences == ()
    expected = {"none": Ending.UNPROVEN if preset == "abTest" else Ending.PROMOTED, "clicks+6%": Ending.PROMOTED}
    assert rollouts.ending[0] == expected.get(effect, Ending.HARM)


def test_a_different_decision_is_found() -> None:
    policy = RolloutPolicy.model_validate(QUICK)
    recording, rollouts = simulated(policy, TrafficModel(60, 15, event_rates(policy, {})), "errors+10", recorded=1)
    assert rollouts.ending[0] == Ending.HARM
    other = replace(rollouts, ending=np.full_like(rollouts.ending, int(Ending.PROMOTED)))
    assert "HARM" in check(policy, recording, other).differences[0]
    later = [replace(windows, candidate=windows.stable) for _, windows in recording.looks[0]]
    softened = Recording(1, [[(weight, window) for (weight, _), window in zip(recording.looks[0], later, strict=True)]])
    assert check(policy, softened, rollouts).differences


def test_of_a_long_rollout_the_first_looks_are_compared() -> None:
    policy = RolloutPolicy.model_validate(QUICK)
    traffic = Traffic(TrafficModel(60, 15, event_rates(policy, {})), parse_effect("none"), 2, np.random.SeedSequence(3))
    recording = Recording(2, [[], []], most=6)
    rollouts = run(Kernel(policy, 2), traffic, policy.deadline, recording=recording)
    assert rollouts.looks.min() > 6
    agreement = check(policy, recording, rollouts)
    assert (agreement.differences, agreement.decisions) == ((), 12)
    weights = [[(weight + 1, window) for weight, window in looks] for looks in recording.looks]
    assert len(check(policy, Recording(2, weights), rollouts).differences) == 2


def test_what_the_kernel_cannot_decide_is_named() -> None:
    assert reason_against_kernel(RolloutPolicy.model_validate({"preset": "shadow"})) == "copies of requests"
    gated = {**QUICK, "steps": [{"weight": 10, "gate": True}, {"weight": 100}]}
    assert reason_against_kernel(RolloutPolicy.model_validate(gated)) == "a gate"
