"""The statistics hold what they promise: against SciPy's exact laws, and by simulation under continuous looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import nchypergeom_fisher

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.assignment import log_evidence_of_mismatch, log_split_likelihoods, shift_grid
from slipway.serving.rollout.core.evidence import (
    bounds,
    log_evidence_above,
    log_evidence_below,
    log_mean_exp,
    log_odds_grid,
    point_estimate,
    start_any_time,
    update_any_time,
)
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.proportions import (
    difference_interval,
    log_limit_ratios,
    rate_interval,
    rates_beyond,
)

GRID = log_odds_grid()
ONE = int(np.searchsorted(GRID, 0.0))
ALPHA = 0.05


@pytest.mark.parametrize(
    ("x", "n_c", "n_s", "k"),
    [
        (0, 50, 950, 10),
        (3, 50, 950, 10),
        (10, 10, 5, 14),
        (0, 7, 1000, 3),
        (120, 2500, 2500, 200),
        (400, 900, 300, 700),
    ],
)
def test_the_likelihood_of_a_window_is_that_of_fishers_noncentral_hypergeometric_law(x, n_c, n_s, k):
    ours = log_likelihoods(x, n_c, n_s, k, GRID)
    law = np.array([nchypergeom_fisher.logpmf(x, n_c + n_s, n_c, k, math.exp(log_odds)) for log_odds in GRID])
    known = np.isfinite(law)  # SciPy's probabilities underflow far out in the tail.
    assert known.sum() > len(GRID) / 2
    np.testing.assert_allclose((ours - ours[ONE])[known], (law - law[ONE])[known], rtol=1e-7, atol=1e-7)


def test_the_window_around_the_mode_gives_the_whole_sum():
    n_c, n_s, k = 30_000, 70_000, 40_000
    grid = np.array([-4.5, -1.0, 0.0, 0.3, 4.5])
    support = np.arange(0, n_c + 1)
    from scipy.special import gammaln, logsumexp

    weights = -(gammaln(support + 1) + gammaln(n_c - support + 1))
    weights = weights - gammaln(k - support + 1) - gammaln(n_s - k + support + 1)
    for x in (100, 12_000, 29_000):
        full = np.array([x * log_odds - logsumexp(weights + log_odds * support) for log_odds in grid])
        ours = log_likelihoods(x, n_c, n_s, k, grid)
        np.testing.assert_allclose(ours - ours[2], full - full[2], rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("window", [(0, 50, 950, 0), (50, 50, 950, 1000), (0, 0, 1000, 10), (5, 100, 0, 5)])
def test_a_window_that_can_tell_nothing_leaves_the_evidence_alone(window):
    assert not np.any(log_likelihoods(*window, GRID))


def windows_under(rng, odds_ratio, windows=150, split=(50, 950), swing=True):
    """Yields (x, n_c, n_s, k) with a base rate that swings between 0.1 and 1.9 %, and minutes bad for both arms."""
    for index in range(windows):
        base = 0.01 + (0.009 * math.sin(index / 7) if swing else 0.0)
        base = 0.3 if swing and index % 41 == 40 else base
        odds = base / (1 - base)
        candidate = odds_ratio * odds / (1 + odds_ratio * odds)
        x, y = rng.binomial(split[0], candidate), rng.binomial(split[1], base)
        yield int(x), split[0], split[1], int(x + y)


def stopped_at(rng, odds_ratio, *, any_start=False, **fields):
    sums, harm, beyond = np.zeros(len(GRID)), start_any_time(len(GRID) - ONE - 1), slice(ONE + 1, None)
    for index, window in enumerate(windows_under(rng, odds_ratio, **fields)):
        likelihoods = log_likelihoods(*window, GRID)
        sums += likelihoods - likelihoods[ONE]
        harm = update_any_time(harm, likelihoods[beyond] - likelihoods[ONE], index, math.inf)
        evidence = log_mean_exp(harm) if any_start else log_evidence_above(sums, GRID, 0.0)
        if evidence >= math.log(1 / ALPHA):
            return index + 1
    return None


@pytest.mark.parametrize("any_start", [False, True])
@pytest.mark.parametrize("split", [(50, 950), (250, 750)])
def test_an_equal_candidate_is_stopped_more_rarely_than_alpha_though_every_window_is_looked_at(any_start, split):
    rng = np.random.default_rng(11)
    stops = sum(stopped_at(rng, 1.0, any_start=any_start, split=split) is not None for _ in range(100))
    # 11 of 100 would happen once in a hundred times at a true rate of 5 %.
    assert stops <= 10


@pytest.mark.parametrize(("odds_ratio", "windows"), [(2.0, 30), (4.0, 10)])
def test_a_worse_candidate_is_nearly_always_stopped_and_soon(odds_ratio, windows):
    rng = np.random.default_rng(12)
    stops = [stopped_at(rng, odds_ratio, any_start=True, swing=False) for _ in range(40)]
    assert all(stop is not None for stop in stops)
    assert np.median(stops) <= windows


def test_harm_that_begins_late_is_found_soon_where_plain_evidence_is_still_working_off_the_good_time():
    rng = np.random.default_rng(13)
    harm, sums = start_any_time(len(GRID) - ONE - 1), np.zeros(len(GRID))
    found = {}
    for index in range(700):
        ratio = 1.0 if index < 500 else 6.0
        window = next(windows_under(rng, ratio, windows=1, swing=False))
        likelihoods = log_likelihoods(*window, GRID)
        sums += likelihoods - likelihoods[ONE]
        harm = update_any_time(harm, likelihoods[ONE + 1 :] - likelihoods[ONE], index, math.inf)
        for name, value in (("any", log_mean_exp(harm)), ("plain", log_evidence_above(sums, GRID, 0.0))):
            if value >= math.log(1 / ALPHA):
                found.setdefault(name, index)
    assert 500 <= found["any"] < 515
    assert found.get("plain", 700) > found["any"]


def test_a_candidate_at_the_margin_is_proven_more_rarely_than_alpha():
    rng = np.random.default_rng(14)
    margin = math.log(1.25)
    grid = log_odds_grid(margin)
    proven = 0
    for _ in range(120):
        sums = np.zeros(len(grid))
        for window in windows_under(rng, 1.25, windows=80, split=(500, 500)):
            sums += log_likelihoods(*window, grid)
            if log_evidence_below(sums, grid, margin) >= math.log(1 / ALPHA):
                proven += 1
                break
    assert proven <= 11


def test_the_confidence_sequence_covers_the_true_odds_ratio_at_all_times():
    rng = np.random.default_rng(15)
    misses = 0
    for _ in range(40):
        sums, missed = np.zeros(len(GRID)), False
        for index, window in enumerate(windows_under(rng, 2.0, windows=60, split=(400, 600))):
            sums += log_likelihoods(*window, GRID)
            if index % 5 == 4:
                lower, upper = bounds(sums, GRID, ALPHA / 2, ALPHA / 2)
                missed |= not lower <= math.log(2.0) <= upper
        misses += missed
        assert bounds(sums, GRID, ALPHA, ALPHA)[0] < point_estimate(sums, GRID) < bounds(sums, GRID, ALPHA, ALPHA)[1]
    assert misses <= 4


@pytest.mark.parametrize("p", [0.0, 0.002, 0.05, 0.5, 1.0])
def test_the_sequence_for_a_rate_covers_it_at_every_look(p):
    rng = np.random.default_rng(16)
    misses = 0
    for _ in range(60):
        bad = np.cumsum(rng.binomial(50, p, size=40))
        intervals = [rate_interval(int(count), 50 * (index + 1), ALPHA) for index, count in enumerate(bad)]
        misses += any(not low <= p <= high for low, high in intervals)
    assert misses <= (0 if p in (0.0, 1.0) else 6)


def test_the_sequence_for_a_rate_also_covers_the_mean_of_a_swinging_rate():
    rng = np.random.default_rng(17)
    rates = 0.02 + 0.019 * np.sin(np.arange(60) / 5)
    means = np.cumsum(rates) / np.arange(1, 61)
    misses = 0
    for _ in range(60):
        bad = np.cumsum(rng.binomial(50, rates))
        intervals = [rate_interval(int(count), 50 * (index + 1), ALPHA) for index, count in enumerate(bad)]
        misses += any(not low <= mean <= high for (low, high), mean in zip(intervals, means, strict=True))
    assert misses <= 6


def test_without_an_event_one_percent_is_excluded_after_some_650_requests():
    first = next(n for n in range(100, 2000) if rate_interval(0, n, 0.05)[1] < 0.01)
    assert 600 <= first <= 720
    assert rate_interval(0, 0, 0.05) == (0.0, 1.0)


def test_a_difference_of_rates_lies_between_its_bounds():
    low, high = difference_interval(60, 1000, 10, 1000, 0.05)
    assert 0 < low < 0.05 < high


def test_an_arm_at_its_hard_limit_breaks_it_more_rarely_than_alpha_and_one_above_it_soon_does():
    rng = np.random.default_rng(18)
    rates = rates_beyond(0.2)
    breaks = {0.2: 0, 0.9: 0}
    for p in breaks:
        for _ in range(100):
            mixture = start_any_time(len(rates))
            for index in range(100):
                mixture = update_any_time(mixture, log_limit_ratios(rng.binomial(10, p), 10, 0.2, rates), index, 99.0)
                if log_mean_exp(mixture) >= math.log(1 / ALPHA):
                    breaks[p] += index < (100 if p == 0.2 else 3)
                    break
    assert breaks[0.2] <= 9
    assert breaks[0.9] == 100


def test_a_split_as_set_is_never_called_wrong_while_the_weights_change_and_a_wrong_one_is():
    rng = np.random.default_rng(19)
    shifts = shift_grid(0.1)
    wrong = {1.0: 0, 1.6: 0}
    for factor in wrong:
        for _ in range(60):
            sums = np.zeros(len(shifts))
            for index in range(90):
                weight = (5, 25, 50)[index // 30]
                odds = factor * weight / (100 - weight)
                sums += log_split_likelihoods(int(rng.binomial(300, odds / (1 + odds))), 300, weight, shifts)
                if log_evidence_of_mismatch(sums, shifts, 0.1) >= math.log(1 / ALPHA):
                    wrong[factor] += 1
                    break
    assert wrong[1.0] <= 3
    assert wrong[1.6] == 60


def test_alpha_is_shared_by_all_tests_that_may_take_the_candidate_back():
    policy = RolloutPolicy()
    levels = Levels.of(policy)
    assert levels.harm == pytest.approx(0.05 / 5)  # Four guardrails and one hard limit.
    assert levels.step * len(policy.steps) == pytest.approx(levels.harm)
