"""The planner says what a policy needs, and refuses one that the traffic cannot feed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slipway.contracts.errors import RolloutError
from slipway.contracts.rollout import Guardrail, RolloutPolicy
from slipway.serving.rollout.core.evidence import log_evidence_below
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.odds_grid import log_margins, odds_grid
from slipway.serving.rollout.core.planner import plan, requests_to_prove

CLICKS = Guardrail.model_validate({"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}})
ALONE = RolloutPolicy.model_validate({"guardrails": [CLICKS], "alpha": 0.05 / 4})


@pytest.mark.parametrize(
    ("odds_ratio", "weight", "measured"),
    [(1.0, 5, 144_000), (1.0, 25, 37_000), (1.0, 50, 30_000), (1.2, 5, 19_000), (1.2, 25, 6_000), (1.2, 50, 4_000)],
)
def test_requests_needed_agree_with_what_simulations_measured(odds_ratio, weight, measured):
    assert 0.8 <= requests_to_prove(CLICKS, ALONE, weight, 0.15, odds_ratio) / measured <= 1.35


def test_half_of_simulated_rollouts_are_proven_by_the_typical_figure_and_nine_in_ten_by_the_unlucky_one():
    rng = np.random.default_rng(21)
    typical = requests_to_prove(CLICKS, ALONE, 50, 0.15, 1.2)
    unlucky = requests_to_prove(CLICKS, ALONE, 50, 0.15, 1.2, unlucky=True)
    grid = odds_grid(ALONE, CLICKS).points
    margin = log_margins(CLICKS)[0] or 0.0
    odds = 1.2 * 0.15 / 0.85
    needed = []
    for _ in range(100):
        sums, requests = np.zeros(len(grid)), 0
        while log_evidence_below(sums, grid, margin) < math.log(1 / 0.0125):
            bad_c, bad_s = rng.binomial(100, 1 / (1 + odds)), rng.binomial(100, 0.85)
            sums += log_likelihoods(int(bad_c), 100, 100, int(bad_c + bad_s), grid)
            requests += 200
        needed.append(requests)
    assert 0.3 <= np.mean(np.array(needed) <= typical) <= 0.7
    assert np.mean(np.array(needed) <= unlucky) >= 0.82


def test_a_better_candidate_more_events_or_an_even_split_need_fewer_requests():
    base = requests_to_prove(CLICKS, ALONE, 25, 0.15)
    assert requests_to_prove(CLICKS, ALONE, 25, 0.15, 1.3) < base
    assert requests_to_prove(CLICKS, ALONE, 25, 0.4) < base
    assert requests_to_prove(CLICKS, ALONE, 50, 0.15) < base
    assert requests_to_prove(CLICKS, ALONE, 25, 0.15, unlucky=True) > base


def test_the_plan_names_each_step_with_its_traffic_time_and_slowest_guardrail():
    planned = plan(RolloutPolicy(), {"clicks": 0.15, "latency": 0.02}, 100)
    assert [step.weight for step in planned.steps] == [5, 25, 50, 100]
    assert [step.requirement for step in planned.steps] == ["noHarm", "noHarm", "proven", "noHarm"]
    assert planned.steps[2].slowest == "clicks"
    assert planned.seconds == sum(step.seconds for step in planned.steps)
    assert "clicks" in "\n".join(planned.lines())


def test_a_policy_that_cannot_be_fed_is_refused_with_what_would_feed_it():
    steps = [{"weight": 50, "deadline": "2m"}, {"weight": 100}]
    policy = RolloutPolicy.model_validate({"steps": steps, "guardrails": [CLICKS]})
    with pytest.raises(RolloutError) as refusal:
        plan(policy, {"clicks": 0.15}, 20)
    text = str(refusal.value)
    for part in ("clicks", "requests at 50 %", "deadline of", "requests/s", "a margin of 0."):
        assert part in text
    assert refusal.value.exit_code == 3
    plan(policy, {"clicks": 0.15}, 20_000)


def test_without_events_only_an_absolute_margin_can_be_proven():
    relative = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5}}
    with pytest.raises(RolloutError, match="can never be proven"):
        plan(RolloutPolicy.model_validate({"guardrails": [relative]}), {"errors": 0.0}, 100)
    absolute = {"name": "errors", "kind": "errors", "margin": {"absolute": 0.01}}
    planned = plan(RolloutPolicy.model_validate({"guardrails": [absolute]}), {"errors": 0.0}, 100)
    assert 1000 <= planned.steps[2].requests <= 3000


def test_no_traffic_is_refused_rather_than_divided_by():
    with pytest.raises(RolloutError):
        plan(RolloutPolicy(), {"clicks": 0.15}, 0)


def test_a_guardrail_of_unknown_rate_is_named_rather_than_guessed():
    assert plan(RolloutPolicy(), {}, 1000).unplanned == ("clicks",)
