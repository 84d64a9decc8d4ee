"""What a step may ask for: an improvement, another margin than the step before, several latency objectives at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from judging import Court, policy_of
from pydantic import ValidationError

from slipway.contracts.rollout import Guardrail, RolloutPolicy
from slipway.serving.rollout.core.evidence import log_evidence_below
from slipway.serving.rollout.core.odds_grid import log_lift, odds_grid
from slipway.serving.rollout.core.types import Outcome

CLICKS = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}, "minimum_lift": 1.02, "requires": "better"}


SLOW = {"name": "slow", "kind": "latency", "objectives": (0.05, 0.1, 0.25), "margin": {"odds_ratio": 1.5}}


def slow(court: Court, candidate: tuple[float, ...], stable: tuple[float, ...], n: int = 1000) -> None:
    names = [part.name for part in court.policy.guardrails[0].parts()]
    court.counts(
        [
            (name, arm, round(share * n), n)
            for arm, shares in (("films-v2", candidate), ("films-v1", stable))
            for name, share in zip(names, shares, strict=True)
        ]
    )


def clicked(
    court: Court, rng: np.random.Generator, candidate: float, stable: float, windows: int, n: int = 500
) -> None:
    for _ in range(windows):
        court.count("clicks", (int(rng.binomial(n, candidate)), n), (int(rng.binomial(n, stable)), n))


def test_better_is_met_by_evidence_beyond_the_lift_and_pass_alone_does_not_meet_it() -> None:
    rng = np.random.default_rng(1)
    court = Court(policy_of(CLICKS))
    clicked(court, rng, 0.30, 0.30, 60)
    equal = court.verdict("clicks")
    assert (equal.outcome, equal.requirement, equal.met, equal.improved) == (Outcome.PASS, "better", False, False)
    assert "not yet better" in equal.explanation

    court = Court(policy_of(CLICKS))
    clicked(court, rng, 0.36, 0.30, 60)
    better = court.verdict("clicks")
    assert (better.outcome, better.met, better.improved) == (Outcome.PASS, True, True)
    assert "better by more than an odds ratio of 1.02" in better.explanation

    # The lift is the odds ratio at stable's own rate, in the direction of the user: more clicks is more than 0.
    assert better.value is not None
    assert better.stable_rate is not None
    assert better.candidate_rate is not None
    assert better.lift == pytest.approx(better.candidate_rate / better.stable_rate - 1, abs=0.01)
    assert better.lift_lower is not None
    assert better.lift_upper is not None
    assert 0.02 < better.lift_lower < better.lift < better.lift_upper
    odds = better.lower * better.stable_rate / (1 - better.stable_rate) if better.lower else 0.0
    assert better.lift_lower == pytest.approx(odds / (1 + odds) / better.stable_rate - 1)


def test_a_candidate_exactly_at_the_lift_is_called_better_more_rarely_than_alpha() -> None:
    policy = policy_of(CLICKS)
    guardrail = policy.guardrails[0]
    grid = odds_grid(policy, guardrail)
    rng = np.random.default_rng(2)
    odds = 1.02 * 0.3 / 0.7
    called = 0
    for _ in range(60):
        court = Court(policy)
        for _ in range(40):
            n = 400
            court.count("clicks", (int(rng.binomial(n, odds / (1 + odds))), n), (int(rng.binomial(n, 0.3)), n))
            sums = np.array(court.state.comparisons["clicks/films-v2"].log_sums)
            if log_evidence_below(sums, grid.points, log_lift(guardrail)) >= math.log(1 / policy.alpha):
                called += 1
                break
    assert called <= 7  # 8 of 60 would happen in one of a hundred tests at a true rate of 5 %.


def test_where_lower_is_better_the_lift_is_below_one() -> None:
    errors = {
        "name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.2}, "minimum_lift": 0.9, "requires": "better",
    }  # fmt: skip
    court = Court(policy_of(errors))
    for _ in range(40):
        court.count("errors", (20, 1000), (50, 1000))
    verdict = court.verdict("errors")
    assert verdict.met
    assert verdict.lift is not None
    assert verdict.lift == pytest.approx(-0.6, abs=0.02)
    with pytest.raises(ValidationError, match="minimum_lift is 1.1"):
        Guardrail.model_validate({**errors, "minimum_lift": 1.1})


def test_several_candidates_share_the_chance_of_being_called_better() -> None:
    alone = Court(policy_of(CLICKS))
    three = Court(policy_of(CLICKS), candidates=("films-v2", "films-v3", "films-v4"), step=0)
    first = {}
    for name, court in (("alone", alone), ("three", three)):
        for window in range(200):
            court.count("clicks", (165, 500), (150, 500))
            if court.verdict("clicks").improved:
                first[name] = window
                break
    assert first["alone"] < first["three"]


def two_margins(first: float, second: float, **guardrail: Any) -> RolloutPolicy:
    steps = [
        {"weight": 5, "minimum_samples": 10, "margins": {"clicks": {"odds_ratio": first}}},
        {"weight": 50, "minimum_samples": 10, "margins": {"clicks": {"odds_ratio": second}}},
        {"weight": 100, "minimum_samples": 0},
    ]
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": first}, **guardrail}
    return policy_of(clicks, steps=steps)


def test_evidence_of_earlier_steps_counts_in_full_against_the_margin_of_a_later_one() -> None:
    loose_then_tight = Court(two_margins(0.7, 0.95), step=0)
    tight_all_along = Court(two_margins(0.95, 0.7), step=0)
    rng = np.random.default_rng(3)
    for _ in range(30):
        window = (int(rng.binomial(500, 0.27)), 500), (int(rng.binomial(500, 0.30)), 500)
        for court in (loose_then_tight, tight_all_along):
            court.count("clicks", *window)
    before = loose_then_tight.verdict("clicks")
    loose_then_tight.to_step(1)
    one, other = loose_then_tight.verdict("clicks"), tight_all_along.verdict("clicks")
    assert before.margin == pytest.approx(0.7)
    assert one.margin == pytest.approx(0.95)
    assert (one.value, one.lower, one.upper) == (before.value, before.lower, before.upper)
    assert (one.outcome, one.log_evidence_harm, one.value) == (other.outcome, other.log_evidence_harm, other.value)
    assert one.log_evidence_harm > before.log_evidence_harm


def test_a_margin_that_only_one_step_names_keeps_the_evidence_too() -> None:
    steps = [
        {"weight": 5, "minimum_samples": 10, "margins": {"slow": {"odds_ratio": 3.0}}},
        {"weight": 50, "minimum_samples": 10},
        {"weight": 100, "minimum_samples": 0},
    ]
    court = Court(policy_of(SLOW, steps=steps), step=0)
    for _ in range(20):
        slow(court, (0.2, 0.1, 0.01), (0.2, 0.05, 0.01))
    loose = court.verdict("slow")
    court.to_step(1)
    tight = court.verdict("slow")
    assert (loose.outcome, tight.outcome, tight.part) == (Outcome.PASS, Outcome.FAIL, 0.1)
    assert loose.margin == pytest.approx(3.0)


def test_a_candidate_between_two_margins_passes_the_loose_step_and_fails_the_tight_one() -> None:
    court = Court(two_margins(0.7, 0.95), step=0)
    rng = np.random.default_rng(4)
    clicked(court, rng, 0.26, 0.30, 200)
    assert court.verdict("clicks").outcome is Outcome.PASS
    court.to_step(1)
    assert court.verdict("clicks").outcome is Outcome.FAIL


def test_margins_that_differ_share_the_level_of_harm_and_one_margin_has_it_alone() -> None:
    two, one = two_margins(0.8, 0.9), two_margins(0.9, 0.9)
    needed = {}
    for name, policy in (("two", two), ("one", one)):
        court = Court(policy)
        court.count("clicks", (150, 500), (150, 500))
        needed[name] = court.verdict("clicks").log_evidence_needed
    assert needed["two"] == pytest.approx(needed["one"] + math.log(2))
    # One odds ratio that harm begins at, named by the guardrail, is one test however many margins there are.
    court = Court(two_margins(0.8, 0.9, harm_from=0.99))
    court.count("clicks", (150, 500), (150, 500))
    assert court.verdict("clicks").log_evidence_needed == pytest.approx(needed["one"])


def test_several_latency_objectives_are_one_guardrail_that_shows_the_worst() -> None:
    court = Court(policy_of(SLOW))
    base = (0.2, 0.05, 0.01)
    for _ in range(20):
        slow(court, base, base)
    equal = court.verdict("slow")
    assert (equal.guardrail, equal.outcome, equal.met) == ("slow", Outcome.PASS, True)
    assert equal.step_samples == 20_000

    court = Court(policy_of(SLOW))
    for _ in range(20):
        slow(court, (0.2, 0.05, 0.05), base)  # Only the tail beyond 250 ms grows.
    worst = court.verdict("slow")
    assert (worst.outcome, worst.part, worst.met) == (Outcome.FAIL, 0.25, False)
    assert "slower than 250" in worst.explanation


def test_one_objective_that_is_not_proven_keeps_the_guardrail_from_passing() -> None:
    court = Court(policy_of(SLOW))
    for _ in range(4):
        slow(court, (0.2, 0.05, 0.002), (0.2, 0.05, 0.002))
    verdict = court.verdict("slow")
    assert (verdict.outcome, verdict.part, verdict.met) == (Outcome.INCONCLUSIVE, 0.25, False)


def test_objectives_share_the_level_of_harm() -> None:
    single = {**SLOW, "objectives": None, "objective": 0.1}
    court, alone = Court(policy_of(SLOW)), Court(policy_of(single))
    slow(court, (0.2, 0.05, 0.01), (0.2, 0.05, 0.01))
    alone.count("slow", (50, 1000), (50, 1000))
    needed = court.verdict("slow").log_evidence_needed
    assert needed == pytest.approx(alone.verdict("slow").log_evidence_needed + math.log(3))


def test_a_missing_objective_is_missing_data_of_the_whole_guardrail() -> None:
    court = Court(policy_of(SLOW))
    court.counts([("slow@0.05", arm, 1, 100) for arm in ("films-v2", "films-v1")])
    assert court.state.clocks["slow"].last_data is None
    verdict = court.verdict("slow")
    assert (verdict.enough, verdict.met) == (False, False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"objective": 0.1}, "not both"),
        ({"objectives": (0.05, 0.07)}, "not a bucket"),
        ({"objectives": (0.1, 0.1)}, "must differ"),
        ({"kind": "errors"}, "belongs to kind latency"),
        ({"unit": "user"}, "users are counted for clicks and means"),
        ({"margin": {"absolute": 1.5}}, "below 1"),
    ],
)
def test_a_guardrail_that_makes_no_sense_is_refused_with_what_to_do(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Guardrail.model_validate({**SLOW, **fields})


def test_a_step_that_asks_for_better_asks_for_proven_where_nothing_can_be_better() -> None:
    errors = {"name": "errors", "kind": "errors", "margin": {"absolute": 0.01}}
    steps = [{"weight": 50, "requires": "better"}, {"weight": 100}]
    policy = policy_of(errors, {key: value for key, value in CLICKS.items() if key != "requires"}, steps=steps)
    assert [policy.requirement(0, guardrail) for guardrail in policy.guardrails] == ["proven", "better"]
