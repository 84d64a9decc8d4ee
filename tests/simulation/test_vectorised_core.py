"""The statistics of the core give many windows the numbers that they give one, and both are the exact ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slipway.serving.rollout.core.assignment import log_split_likelihoods, shift_grid
from slipway.serving.rollout.core.evidence import (
    log_evidence_above,
    log_evidence_below,
    log_evidences_above,
    log_evidences_below,
    log_mean_exp,
    log_mean_exps,
    log_odds_grid,
    update_any_time,
)
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.proportions import (
    difference_interval,
    difference_intervals,
    log_limit_ratios,
    rate_interval,
    rate_intervals,
    rates_beyond,
)

GRID = log_odds_grid(math.log(1.5))
RNG = np.random.default_rng(11)


def windows(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Returns (x, n_c, n_s, k) of windows of every size and rate, with hardly any event and with nearly all."""
    n_c = (10 ** RNG.uniform(0, 4.6, count)).astype(np.int64)
    n_s = (10 ** RNG.uniform(0, 4.6, count)).astype(np.int64)
    rate = np.where(RNG.random(count) < 0.8, 10 ** RNG.uniform(-4, -0.05, count), 1.0)
    x, y = RNG.binomial(n_c, rate), RNG.binomial(n_s, rate)
    return np.stack([x, n_c, n_s, x + y], axis=1)


def exact(x: int, n_c: int, n_s: int, k: int) -> list[float]:
    """Returns log P_theta(x) by summing the whole support, term by term."""
    low, high = max(0, k - n_s), min(n_c, k)
    choose = [
        math.lgamma(n_c + 1) - math.lgamma(y + 1) - math.lgamma(n_c - y + 1)
        + math.lgamma(n_s + 1) - math.lgamma(k - y + 1) - math.lgamma(n_s - k + y + 1)
        for y in range(low, high + 1)
    ]  # fmt: skip
    found = []
    for theta in GRID.tolist():
        terms = [weight + theta * y for weight, y in zip(choose, range(low, high + 1), strict=True)]
        top = max(terms)
        total = top + math.log(math.fsum(math.exp(term - top) for term in terms))
        found.append(choose[x - low] + theta * x - total)
    return found


@pytest.mark.parametrize(
    "case", [(3, 40, 60, 9), (20, 150, 1350, 170), (300, 375, 1125, 1275), (900, 2000, 2500, 1900)]
)
def test_likelihood_ratios_are_those_of_the_whole_support(case: tuple[int, int, int, int]) -> None:
    found, wanted = log_likelihoods(*case, GRID), np.array(exact(*case))
    one = int(np.searchsorted(GRID, 0.0))
    np.testing.assert_allclose(found - found[one], wanted - wanted[one], rtol=1e-10, atol=1e-8)


def test_many_windows_have_the_likelihoods_of_each() -> None:
    cases = windows(400)
    together = log_likelihoods(cases[:, 0], cases[:, 1], cases[:, 2], cases[:, 3], GRID)
    apart = np.array([log_likelihoods(*(int(part) for part in case), GRID) for case in cases])
    np.testing.assert_allclose(together, apart, rtol=1e-11, atol=1e-8)
    silent = (cases[:, 3] == 0) | (cases[:, 3] == cases[:, 1] + cases[:, 2])
    assert silent.any()
    assert not together[silent].any()


def test_many_intervals_are_those_of_each_and_end_where_the_mixture_says() -> None:
    cases = windows(300)
    lower, upper = rate_intervals(cases[:, 0], cases[:, 1], 0.01)
    for (x, n), low, high in zip(cases[:, :2].tolist(), lower.tolist(), upper.tolist(), strict=True):
        assert (low, high) == pytest.approx(rate_interval(x, n, 0.01), rel=1e-12)
        assert 0 <= low <= x / n <= high <= 1
        mixture = math.lgamma(x + 0.5) + math.lgamma(n - x + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
        for edge, inner in ((low, x > 0), (high, x < n)):
            if inner:
                likelihood = x * math.log(edge) + (n - x) * math.log1p(-edge)
                assert mixture - likelihood == pytest.approx(math.log(100), abs=1e-6)
    bounds = difference_intervals(cases[:, 0], cases[:, 1], cases[:, 3] - cases[:, 0], cases[:, 2], 0.05)
    for index in range(0, 300, 29):
        x, n, m, k = cases[index].tolist()
        one = difference_interval(x, n, k - x, m, 0.05)
        assert (float(bounds[0][index]), float(bounds[1][index])) == pytest.approx(one, abs=1e-12)


def test_evidence_of_many_is_that_of_each() -> None:
    sums = RNG.normal(0, 30, (50, len(GRID)))
    margin = math.log(1.5)
    for index, own in enumerate(sums):
        assert log_mean_exps(sums)[index] == pytest.approx(log_mean_exp(own))
        assert log_evidences_above(sums, GRID, margin)[index] == pytest.approx(log_evidence_above(own, GRID, margin))
        assert log_evidences_below(sums, GRID, margin)[index] == pytest.approx(log_evidence_below(own, GRID, margin))
    seen, ratios = RNG.integers(0, 500, 50), RNG.normal(0, 2, (50, len(GRID)))
    together = update_any_time(sums, ratios, seen, 20.0)
    for index in range(50):
        one = update_any_time(sums[index], ratios[index], int(seen[index]), 20.0)
        np.testing.assert_allclose(together[index], one, rtol=1e-13)


def test_splits_and_limits_of_many_are_those_of_each() -> None:
    n, total, weight = RNG.integers(0, 50, 20), RNG.integers(50, 900, 20), RNG.integers(1, 99, 20)
    shifts, rates = shift_grid(0.1), rates_beyond(0.2)
    splits, limits = log_split_likelihoods(n, total, weight, shifts), log_limit_ratios(n, total, 0.2, rates)
    for index in range(20):
        own = int(n[index]), int(total[index])
        np.testing.assert_allclose(splits[index], log_split_likelihoods(*own, int(weight[index]), shifts))
        np.testing.assert_allclose(limits[index], log_limit_ratios(*own, 0.2, rates))
