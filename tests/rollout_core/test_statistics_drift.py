"""Drift of scores: equal histograms are called different more rarely than alpha at all looks, and shifts are found."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from judging import Court, policy_of
from pydantic import ValidationError

from slipway.contracts.rollout import Guardrail
from slipway.serving.rollout.core import drift
from slipway.serving.rollout.core.types import Outcome
from slipway.serving.rollout.core.windows import Buckets

ALPHA = 0.05
SCORES = {"name": "scores", "kind": "scores", "margin": {"absolute": 0.2}}
Shares = np.ndarray[Any, np.dtype[np.float64]]


def shares(shift: float = 0.0, buckets: int = 27) -> Shares:
    """Returns a bell of scores over the buckets, moved by a number of buckets."""
    weights = np.exp(-0.5 * ((np.arange(buckets) - buckets / 2 - shift) / 4) ** 2)
    return np.asarray(weights / weights.sum())


def drawn(rng: np.random.Generator, n: int, law: Shares) -> Buckets:
    return Buckets(n, tuple(int(count) for count in rng.multinomial(n, law)))


def true_index(p: Shares, q: Shares) -> float:
    return drift.stability_index(p, q)


@pytest.mark.parametrize("swinging", [False, True])
def test_equal_distributions_are_called_different_more_rarely_than_alpha_though_every_window_is_looked_at(
    swinging: bool,
) -> None:
    rng = np.random.default_rng(41)
    called = 0
    for _ in range(80):
        evidence = drift.start(27)
        for window in range(60):
            law = shares(5 * math.sin(window / 5) if swinging else 0.0)
            n_c, n_s = ((5, 95), (25, 75), (50, 50))[window // 20]
            evidence = drift.take(evidence, drawn(rng, n_c, law), drawn(rng, n_s, law), in_step=True)
            if drift.log_evidence_unequal(evidence) >= math.log(1 / ALPHA):
                called += 1
                break
    assert called <= 9  # 10 of 80 would happen in less than one of a hundred tests at a true rate of 5 %.


def test_the_e_process_is_fair_under_equality_window_by_window() -> None:
    """Exact, by enumeration: the expectation of a window's factor is 1 at most, whatever the common distribution is."""
    before = drift.take(drift.start(3), Buckets(6, (4, 1, 1)), Buckets(10, (2, 3, 5)), in_step=True)
    at_start = np.array(before.log_unequal)
    for law in ((0.2, 0.3, 0.5), (0.9, 0.05, 0.05), (1 / 3, 1 / 3, 1 / 3)):
        expectation = np.zeros(len(at_start))
        for draws in itertools.product(range(3), repeat=5):
            own, stable = np.bincount(draws[:2], minlength=3), np.bincount(draws[2:], minlength=3)
            after = drift.take(before, Buckets(2, tuple(own)), Buckets(3, tuple(stable)), in_step=True)
            probability = math.prod(law[draw] for draw in draws)
            expectation += probability * np.exp(np.array(after.log_unequal) - at_start)
        assert np.all(expectation <= 1 + 1e-12)
        assert np.all(expectation > 0.5)


@pytest.mark.parametrize(("shift", "split"), [(0.0, (50, 50)), (1.0, (50, 50)), (2.0, (10, 90))])
def test_the_bounds_cover_the_true_index_at_all_looks(shift: float, split: tuple[int, int]) -> None:
    rng = np.random.default_rng(42)
    truth = true_index(shares(shift), shares())
    missed = 0
    for _ in range(25):
        own, stable, excluded = np.zeros(27), np.zeros(27), False
        for _ in range(25):
            own += rng.multinomial(split[0], shares(shift))
            stable += rng.multinomial(split[1], shares())
            low, high = drift.index_bounds(own, stable, ALPHA / 2, ALPHA / 2)
            excluded |= not low <= truth <= high
        missed += excluded
    assert missed <= 4


def test_an_index_of_no_shift_is_proven_small_and_a_large_one_is_proven_large() -> None:
    rng = np.random.default_rng(43)
    for shift, side in ((0.0, "below"), (4.0, "above")):
        own, stable = rng.multinomial(20_000, shares(shift)), rng.multinomial(20_000, shares())
        low, high = drift.index_bounds(own.astype(float), stable.astype(float), ALPHA, ALPHA)
        assert low <= drift.stability_index(own.astype(float), stable.astype(float)) <= high
        assert high < 0.2 if side == "below" else low > 0.2


def histograms(court: Court, rng: np.random.Generator, shift: float, windows: int, n: int = 500) -> None:
    for _ in range(windows):
        court.histogram("scores", rng.multinomial(n, shares(shift)), rng.multinomial(n, shares()))


def test_equal_scores_pass_a_large_shift_fails_and_one_within_the_margin_is_tolerated() -> None:
    rng = np.random.default_rng(44)
    court = Court(policy_of(SCORES))
    histograms(court, rng, 0.0, 30)
    equal = court.verdict("scores")
    assert (equal.outcome, equal.met, equal.measure, equal.margin) == (Outcome.PASS, True, "stability_index", 0.2)
    assert equal.value is not None
    assert 0 <= equal.value < 0.02
    assert equal.candidate_rate is None
    assert equal.samples == 15_000
    assert "stability index" in equal.explanation

    court = Court(policy_of(SCORES))
    histograms(court, rng, 4.0, 12)
    worse = court.verdict("scores")
    assert worse.outcome is Outcome.FAIL
    assert worse.lower is not None
    assert 0.2 < worse.lower < true_index(shares(4.0), shares())

    court = Court(policy_of(SCORES))
    histograms(court, rng, 1.2, 30, n=5000)
    small = court.verdict("scores")
    assert true_index(shares(1.2), shares()) < 0.2
    assert small.log_evidence_harm > small.log_evidence_needed  # They differ, beyond doubt,
    assert small.outcome is Outcome.PASS  # and by less than what is tolerated.


def test_a_new_step_starts_the_index_anew_and_keeps_the_evidence_of_a_difference() -> None:
    rng = np.random.default_rng(45)
    court = Court(policy_of(SCORES), step=0)
    histograms(court, rng, 2.0, 10)
    before = court.verdict("scores").log_evidence_harm
    court.to_step(1)
    verdict = court.verdict("scores")
    assert (verdict.log_evidence_harm, verdict.value, verdict.step_samples) == (before, None, 0)


def test_other_buckets_are_no_evidence_and_broken_ones_an_error() -> None:
    court = Court(policy_of(SCORES))
    court.histogram("scores", (1, 2, 3), (1, 2))
    assert not court.state.drifts
    court.histogram("scores", (1, -2, 3), (1, 2, 3))
    verdict = court.verdict("scores")
    assert verdict.outcome is Outcome.ERROR
    assert "bucket is negative" in verdict.explanation


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"margin": {"odds_ratio": 1.5}}, "give margin.absolute alone"),
        ({"requires": "better"}, "only different"),
        ({"hard_limit": {"rate": 0.1}}, "no rate of events"),
        ({"direction": "higher"}, "direction of kind scores"),
    ],
)
def test_scores_that_make_no_sense_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Guardrail.model_validate({**SCORES, **fields})
