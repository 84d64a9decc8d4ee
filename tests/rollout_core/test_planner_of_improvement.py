"""The planner knows improvements, users, means, copies and margins by step; what it says is what simulations need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from judging import Court

from slipway.contracts.errors import RolloutError
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.planner import plan, requests_to_prove
from slipway.serving.rollout.core.sample_size import Split, Truth, detectable, needed

CLICKS = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.95}, "requires": "better"}
WATCH = {
    "name": "watch", "kind": "mean", "value": "watch", "maximum": 60.0, "direction": "higher",
    "margin": {"absolute": 1.5}, "requires": "better",
}  # fmt: skip
HALF = [{"weight": 50, "minimum_samples": 10, "deadline": "7d"}, {"weight": 100, "minimum_samples": 0}]


def policy_of(*guardrails: dict[str, Any], steps: list[dict[str, Any]] | None = None, **fields: Any) -> RolloutPolicy:
    return RolloutPolicy.model_validate({"steps": steps or HALF, "guardrails": guardrails, "deadline": "8d", **fields})


def odds(rate: float, ratio: float) -> float:
    return ratio * rate / (1 - rate + ratio * rate)


def test_half_of_simulated_experiments_are_called_better_by_the_typical_figure() -> None:
    policy = policy_of(CLICKS)
    typical = requests_to_prove(policy.guardrails[0], policy, 50, 0.15, 1.25, claim="better")
    unlucky = requests_to_prove(policy.guardrails[0], policy, 50, 0.15, 1.25, claim="better", unlucky=True)
    rng = np.random.default_rng(51)
    took = []
    for _ in range(60):
        court, requests = Court(policy, step=0), 0
        while not court.verdict("clicks").improved and requests < 5 * typical:
            clicks = (int(rng.binomial(200, rate)) for rate in (odds(0.15, 1.25), 0.15))
            court.count("clicks", (next(clicks), 200), (next(clicks), 200))
            requests += 400
        took.append(requests)
    assert 0.3 <= np.mean(np.array(took) <= typical) <= 0.7
    assert np.mean(np.array(took) <= unlucky) >= 0.8


def test_the_detectable_effect_is_found_in_eight_of_ten_experiments() -> None:
    policy = policy_of(CLICKS)
    guardrail, split = policy.guardrails[0], Split(0.5, 0.5)
    ratio = detectable(guardrail, policy, split, Truth(0.15), 20_000)
    assert ratio is not None
    rng = np.random.default_rng(52)
    found = 0
    for _ in range(60):
        court = Court(policy, step=0)
        for _ in range(25):
            clicks = (int(rng.binomial(400, rate)) for rate in (odds(0.15, ratio), 0.15))
            court.count("clicks", (next(clicks), 400), (next(clicks), 400))
            if court.verdict("clicks").improved:
                found += 1
                break
    assert 0.68 <= found / 60 <= 0.95


def test_more_users_show_smaller_effects_and_no_users_none() -> None:
    policy = policy_of(CLICKS)
    guardrail, split = policy.guardrails[0], Split(0.5, 0.5)
    ratios = [detectable(guardrail, policy, split, Truth(0.15), units) for units in (0, 1e3, 1e4, 1e5, 1e6)]
    assert ratios[0] is None
    found = [ratio for ratio in ratios if ratio is not None]
    assert found == sorted(found, reverse=True)
    assert 1.0 < found[-1] < 1.05
    # Where lower is better, better is an odds ratio below 1.
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.2}, "requires": "better"}
    policy = policy_of(errors)
    ratio = detectable(policy.guardrails[0], policy, split, Truth(0.05), 1e5)
    assert ratio is not None
    assert 0.5 < ratio < 1


def test_a_mean_needs_what_simulations_need() -> None:
    policy = policy_of({**WATCH, "requires": "proven"})
    values = np.random.default_rng(53).beta(1.0, 2.0, 10**6) * (np.random.default_rng(54).random(10**6) < 0.5)
    truth = Truth(deviation=float(values.std()))
    typical = needed(policy.guardrails[0], policy, Split(0.5, 0.5), truth, "proven")
    rng = np.random.default_rng(55)
    took = []
    for _ in range(30):
        court, requests = Court(policy, step=0), 0
        while court.verdict("watch").outcome != "PASS" and requests < 5 * typical:
            drawn = [rng.choice(values, 100) for _ in range(2)]
            own, other = ((100, float(one.sum()), float((one**2).sum())) for one in drawn)
            court.moments("watch", own, other)
            requests += 200
        took.append(requests)
    assert 0.7 <= np.median(took) / typical <= 1.4


def test_an_experiment_of_users_lasts_until_its_deadline_and_says_what_it_would_find() -> None:
    clicks = {**CLICKS, "unit": "user"}
    policy = policy_of(clicks)
    planned = plan(policy, {"clicks": 0.2}, 50, users_per_second=0.5)
    (found,) = planned.detectable
    assert (found.unit, found.units) == ("user", pytest.approx(0.5 * 7 * 86_400))
    assert found.lift is not None
    assert 0 < found.lift < 0.05
    assert planned.steps[0].requirement == "better"
    assert planned.steps[0].seconds == pytest.approx(7 * 86_400)
    assert planned.steps[0].users == pytest.approx(302_400)
    text = "\n".join(planned.lines())
    assert "302,400 users by its deadline, a lift of +" in text

    expected = plan(policy, {"clicks": 0.2}, 50, {"clicks": 1.2}, users_per_second=0.5)
    assert expected.steps[0].seconds < planned.steps[0].seconds
    assert expected.detectable == ()

    unknown = plan(policy, {"clicks": 0.2}, 50)
    assert unknown.untimed == ("clicks",)
    assert "how many come is not known: clicks" in "\n".join(unknown.lines())


def test_an_experiment_that_could_not_even_show_a_large_improvement_is_refused() -> None:
    with pytest.raises(RolloutError, match="not even a large improvement"):
        plan(policy_of({**CLICKS, "unit": "user"}), {"clicks": 0.2}, 50, users_per_second=0.00005)


def test_a_mirrored_step_is_fed_by_copies_and_waits_for_no_feedback() -> None:
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.01}}
    steps = [{"weight": 0, "mirror": 20, "minimum_samples": 1000, "deadline": "1d"}]
    policy = policy_of(errors, steps=steps, strategy="shadow")
    planned = plan(policy, {"errors": 0.001}, 10)
    (step,) = planned.steps
    assert (step.mirror, step.requirement) == (20, "proven")
    whole = plan(policy_of(errors, steps=[{**steps[0], "mirror": 100}], strategy="shadow"), {"errors": 0.001}, 10)
    assert 5000 <= whole.steps[0].requests * 5 < step.requests * 1.5
    assert "+20%" in "\n".join(planned.lines())
    # No user sees the answer to a copy: clicks are not waited for, and bring no evidence to later steps.
    clicks = {**CLICKS, "requires": None}
    with_clicks = plan(policy_of(errors, clicks, steps=steps, strategy="shadow"), {"errors": 0.001, "clicks": 0.1}, 10)
    assert with_clicks.steps[0].seconds == step.seconds
    then = [{**steps[0], "minimum_dwell": "1d", "deadline": "2d"}, *HALF]
    after_copies = plan(policy_of(clicks, steps=then), {"clicks": 0.1}, 100).steps[1].requests
    assert after_copies == plan(policy_of(clicks), {"clicks": 0.1}, 100).steps[0].requests


def test_each_step_is_planned_by_its_own_margin() -> None:
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}}
    first = {"weight": 50, "requires": "proven", "minimum_samples": 10}

    def requests(margin: dict[str, Any]) -> float:
        steps = [{**first, "margins": margin}, {"weight": 100, "minimum_samples": 0}]
        return plan(policy_of(clicks, steps=steps), {"clicks": 0.2}, 100).steps[0].requests

    assert requests({"clicks": {"odds_ratio": 0.8}}) < requests({}) / 3
    assert requests({"clicks": {"odds_ratio": 0.95}}) > requests({}) * 3


def test_what_is_not_known_of_stable_is_named() -> None:
    scores = {"name": "scores", "kind": "scores", "margin": {"absolute": 0.2}}
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}}
    watch = {**WATCH, "requires": "proven"}
    assert plan(policy_of(scores, watch, clicks), {"clicks": 0.2}, 100).unplanned == ("scores", "watch")
    planned = plan(policy_of(watch, clicks), {"clicks": 0.2}, 1000, means={"watch": (0.1, 0.2)})
    assert planned.unplanned == ()
    assert math.isfinite(planned.seconds)


def test_requests_of_users_who_stay_are_called_what_they_are() -> None:
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}}
    planned = plan(policy_of(clicks, assignment="user"), {"clicks": 0.2}, 1000)
    assert planned.clustered == ("clicks",)
    assert "set `unit: user`" in "\n".join(planned.lines())
    assert plan(policy_of(clicks), {"clicks": 0.2}, 1000).clustered == ()
    of_users = policy_of({**clicks, "unit": "user"}, assignment="user")
    assert plan(of_users, {"clicks": 0.2}, 1000, users_per_second=100).clustered == ()


def test_several_objectives_are_planned_by_the_hardest() -> None:
    slow = {"name": "slow", "kind": "latency", "objectives": [0.1, 1.0], "margin": {"odds_ratio": 1.5}}
    one = {"name": "slow", "kind": "latency", "objective": 0.1, "margin": {"odds_ratio": 1.5}}
    both = plan(policy_of(slow), {"slow@0.1": 0.05, "slow@1": 0.005}, 1000).steps[0].requests
    assert both > 3 * plan(policy_of(one), {"slow": 0.05}, 1000).steps[0].requests


def test_several_candidates_take_longer() -> None:
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}}
    steps = [{"weight": 25, "minimum_samples": 10, "requires": "proven"}, {"weight": 100, "minimum_samples": 0}]
    policy = policy_of(clicks, steps=steps)
    alone = plan(policy, {"clicks": 0.2}, 100).steps[0].requests
    assert plan(policy, {"clicks": 0.2}, 100, candidates=3).steps[0].requests > alone
