"""Means of bounded values: the confidence sequence covers at all looks, and verdicts are those of the user's unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from judging import Court, policy_of
from pydantic import ValidationError

from slipway.contracts.rollout import Guardrail
from slipway.serving.rollout.core import means
from slipway.serving.rollout.core.types import Outcome
from slipway.serving.rollout.core.windows import Moments

ALPHA = 0.05
WATCH = {
    "name": "watch", "kind": "mean", "value": "watch", "maximum": 60.0, "direction": "higher",
    "margin": {"absolute": 1.5},
}  # fmt: skip


def sums(values: np.ndarray[Any, np.dtype[np.float64]]) -> Moments:
    return Moments(len(values), float(values.sum()), float((values**2).sum()))


def watched(rng: np.random.Generator, n: int, mean: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Draws shares of the maximum: most people watch nothing, the others a beta-distributed time."""
    return rng.beta(1.0, 2.0, n) * (rng.random(n) < 3 * mean)


def misses(difference: float, level: Callable[[int], float], split: Callable[[int], tuple[int, int]], runs: int) -> int:
    """Returns in how many runs the sequence ever excludes the true difference, looked at after each of 60 windows."""
    rng = np.random.default_rng(31)
    missed = 0
    for _ in range(runs):
        evidence, excluded = means.start((0.0,), 1), False
        for window in range(60):
            n_c, n_s = split(window)
            base = level(window)
            own, stable = sums(watched(rng, n_c, base + difference)), sums(watched(rng, n_s, base))
            evidence = means.take(evidence, own, stable, (0.0,), higher_is_better=False)
            excluded |= means.log_evidence_worse(evidence, difference) >= math.log(2 / ALPHA)
            excluded |= means.log_evidence_not_worse(evidence, difference) >= math.log(2 / ALPHA)
        missed += excluded
    return missed


@pytest.mark.parametrize("difference", [0.0, 0.05])
def test_the_sequence_covers_the_true_difference_at_all_looks(difference: float) -> None:
    assert misses(difference, lambda _: 0.15, lambda _: (30, 30), runs=60) <= 6


def test_neither_a_swinging_level_nor_a_changing_split_is_evidence() -> None:
    def swinging(window: int) -> float:
        return 0.15 + 0.12 * math.sin(window / 6)

    def changing(window: int) -> tuple[int, int]:
        return ((3, 57), (15, 45), (30, 30))[window // 20]

    assert misses(0.0, swinging, changing, runs=60) <= 6


def test_bounds_close_in_on_the_true_difference_as_values_come() -> None:
    rng = np.random.default_rng(32)
    evidence = means.start((0.0,), 1)
    assert means.mean_bounds(evidence, ALPHA, ALPHA) == (-math.inf, math.inf)
    widths = []
    for _ in range(400):
        own, stable = sums(watched(rng, 50, 0.2)), sums(watched(rng, 50, 0.1))
        evidence = means.take(evidence, own, stable, (0.0,), higher_is_better=False)
        low, high = means.mean_bounds(evidence, ALPHA, ALPHA)
        assert low < 0.1 < high
        widths.append(high - low)
    assert widths[-1] < 0.03 < widths[20]
    # Within a small factor of what a test at one planned moment has: 2 * 1.64 standard errors.
    deviation = math.sqrt(float(watched(rng, 100_000, 0.2).var() + watched(rng, 100_000, 0.1).var()) / 20_000)
    assert widths[-1] < 2.5 * 2 * 1.64 * deviation


def test_sums_of_a_window_give_the_evidence_that_its_values_one_by_one_would() -> None:
    """The penalty made of n, sum and squares is the sum over the values of the squared distance from the guess."""
    rng = np.random.default_rng(33)
    first, second = watched(rng, 40, 0.2), watched(rng, 60, 0.2)
    other = watched(rng, 80, 0.2)
    evidence = means.take(means.start((0.0,), 1), sums(first), sums(other), (0.0,), higher_is_better=False)
    evidence = means.take(evidence, sums(second), sums(other), (0.0,), higher_is_better=False)
    expected = np.zeros(len(means.BETS))
    guess, stable_guess = 0.5, 0.5
    for own in (first, second):
        n = len(own) + len(other)
        for value in own:
            bet = means.BETS * len(other) / n
            expected += bet * value + (np.log1p(-bet) + bet) * (value - guess) ** 2
        for value in other:
            bet = means.BETS * len(own) / n
            expected += -bet * value + (np.log1p(-bet) + bet) * (value - stable_guess) ** 2
        guess, stable_guess = (0.5 + first.sum()) / 41, (0.5 + other.sum()) / 81
    np.testing.assert_allclose(evidence.log_worse, expected, atol=1e-9)


def watch(court: Court, rng: np.random.Generator, candidate: float, stable: float, windows: int) -> None:
    for _ in range(windows):
        drawn = (sums(watched(rng, 200, mean / 60.0)) for mean in (candidate, stable))
        own, other = ((m.n, m.total, m.squares) for m in drawn)
        court.moments("watch", own, other)


def test_an_equal_mean_passes_a_worse_one_fails_and_figures_are_in_the_users_unit() -> None:
    rng = np.random.default_rng(34)
    court = Court(policy_of(WATCH))
    watch(court, rng, 10.0, 10.0, 100)
    equal = court.verdict("watch")
    assert (equal.outcome, equal.met, equal.measure, equal.margin) == (Outcome.PASS, True, "mean_difference", -1.5)
    assert equal.candidate_rate == pytest.approx(10.0, abs=0.5)
    assert (equal.samples, equal.step_samples) == (20_000, 20_000)
    assert equal.lower is not None
    assert equal.upper is not None
    assert -1.5 < equal.lower < 0 < equal.upper < 2.5
    assert "mean watch of a request: " in equal.explanation

    court = Court(policy_of(WATCH))
    watch(court, rng, 6.0, 10.0, 60)
    worse = court.verdict("watch")
    assert worse.outcome is Outcome.FAIL
    assert worse.value == pytest.approx(-4.0, abs=0.6)
    assert worse.log_evidence_harm >= worse.log_evidence_needed


def test_a_mean_exactly_at_the_margin_neither_fails_nor_passes_more_often_than_alpha() -> None:
    rng = np.random.default_rng(35)
    ends = []
    for _ in range(40):
        court = Court(policy_of(WATCH))
        outcome = Outcome.INCONCLUSIVE
        for _ in range(10):
            watch(court, rng, 8.5, 10.0, 4)
            outcome = court.verdict("watch").outcome
            if outcome is not Outcome.INCONCLUSIVE:
                break
        ends.append(outcome)
    assert ends.count(Outcome.FAIL) <= 6
    assert ends.count(Outcome.PASS) <= 6


def test_harm_that_begins_late_is_found_soon() -> None:
    rng = np.random.default_rng(36)
    court = Court(policy_of(WATCH))
    watch(court, rng, 10.0, 10.0, 200)
    late = 0
    while court.verdict("watch").outcome is not Outcome.FAIL:
        watch(court, rng, 4.0, 10.0, 1)
        late += 1
        assert late < 25


def test_a_mean_may_have_to_get_better() -> None:
    rng = np.random.default_rng(37)
    better = {**WATCH, "requires": "better", "minimum_gain": 0.5}
    for candidate, met in ((10.0, False), (12.5, True)):
        court = Court(policy_of(better))
        watch(court, rng, candidate, 10.0, 120)
        verdict = court.verdict("watch")
        assert (verdict.outcome, verdict.improved, verdict.met) == (Outcome.PASS, met, met)


def test_where_less_is_better_the_direction_turns() -> None:
    rng = np.random.default_rng(38)
    court = Court(policy_of({**WATCH, "direction": "lower"}))
    watch(court, rng, 6.0, 10.0, 60)
    assert court.verdict("watch").outcome is Outcome.PASS
    court = Court(policy_of({**WATCH, "direction": "lower"}))
    watch(court, rng, 14.0, 10.0, 60)
    verdict = court.verdict("watch")
    assert (verdict.outcome, verdict.margin) == (Outcome.FAIL, 1.5)


def test_margins_of_a_mean_may_change_from_step_to_step() -> None:
    steps = [
        {"weight": 5, "minimum_samples": 10, "margins": {"watch": {"absolute": 6.0}}},
        {"weight": 50, "minimum_samples": 10},
        {"weight": 100, "minimum_samples": 0},
    ]
    rng = np.random.default_rng(39)
    court = Court(policy_of(WATCH, steps=steps), step=0)
    watch(court, rng, 7.0, 10.0, 100)
    loose = court.verdict("watch")
    court.to_step(1)
    tight = court.verdict("watch")
    assert (loose.outcome, tight.outcome) == (Outcome.PASS, Outcome.FAIL)
    assert (loose.value, loose.lower, loose.upper) == (tight.value, tight.lower, tight.upper)


@pytest.mark.parametrize(
    ("moments", "words"),
    [
        ((10, 11.0, 5.0), "outside their bounds"),
        ((10, 3.0, 4.0), "outside their bounds"),
        ((10, 5.0, 1.0), "no 10 values"),
        ((10, math.nan, 1.0), "not a number"),
        ((9.5, 1.0, 0.5), "not whole"),
        ((-1, 0.0, 0.0), "negative"),
    ],
)
def test_sums_that_no_values_have_are_an_error_and_no_evidence(moments: tuple[float, ...], words: str) -> None:
    court = Court(policy_of(WATCH))
    court.moments("watch", (10, 5.0, 3.0), (10, 5.0, 3.0))
    before = court.state.means
    court.moments("watch", moments, (10, 5.0, 3.0))  # type: ignore[arg-type]
    verdict = court.verdict("watch")
    assert court.state.means == before
    assert verdict.outcome is Outcome.ERROR
    assert words in verdict.explanation


def test_rounding_of_summed_floating_point_values_is_no_error() -> None:
    court = Court(policy_of(WATCH))
    court.moments("watch", (3, 3.0 + 1e-9, 3.0 + 2e-9), (2, 0.2, 0.02 - 1e-12))
    assert court.verdict("watch").outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"value": None}, "belong together"),
        ({"margin": {"odds_ratio": 0.9}}, "give margin.absolute alone"),
        ({"margin": {"absolute": 60.0}}, "must be below 60"),
        ({"direction": None}, "say whether"),
        ({"hard_limit": {"rate": 0.1}}, "no rate of events"),
        ({"minimum_lift": 1.1}, "minimum_gain instead"),
        ({"minimum_gain": 61.0}, "below their maximum"),
    ],
)
def test_a_mean_that_makes_no_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Guardrail.model_validate({**WATCH, **fields})
