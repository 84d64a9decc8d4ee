"""Evidence of a comparison: exact under the null, valid at every look, and lifts that are covered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, nchypergeom_fisher

from slipway.contracts.errors import DataError
from slipway.serving.experiments.evidence import (
    Alternative,
    PairCounts,
    lift_interval,
    log_e_value,
    log_sums_of,
)
from slipway.serving.experiments.sample_ratio import log_evidence_of_mismatch


@pytest.mark.parametrize("alternative", ["different", "higher", "lower"])
def test_the_mean_e_value_without_a_difference_is_one(alternative: Alternative) -> None:
    n_c, n_s, k = 120, 80, 30
    law = nchypergeom_fisher(n_c + n_s, k, n_c, 1.0)
    mean = sum(
        float(law.pmf(x)) * math.exp(log_e_value(log_sums_of([PairCounts(x, n_c, k - x, n_s)]), alternative))
        for x in range(k + 1)
    )
    assert mean == pytest.approx(1, abs=1e-8)


def test_the_mean_e_value_against_higher_is_below_one_where_the_rate_is_lower() -> None:
    n_c, n_s, k = 120, 80, 30
    law = nchypergeom_fisher(n_c + n_s, k, n_c, 0.8)
    mean = sum(
        float(law.pmf(x)) * math.exp(log_e_value(log_sums_of([PairCounts(x, n_c, k - x, n_s)]), "higher"))
        for x in range(k + 1)
    )
    assert mean < 1


def simulated(rng: np.random.Generator, lift: float, looks: int = 12, users: int = 1000) -> list[PairCounts]:
    """Returns windows whose base rate swings and whose split changes."""
    windows = []
    for look in range(looks):
        base = 0.15 + 0.05 * math.sin(look)
        n_c = int(rng.binomial(users, 0.5 if look % 2 else 0.2))
        x, y = int(rng.binomial(n_c, base * (1 + lift))), int(rng.binomial(users - n_c, base))
        windows.append(PairCounts(x, n_c, y, users - n_c))
    return windows


def test_peeking_at_every_window_does_not_raise_false_alarms() -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(80):
        sums = np.zeros(len(log_sums_of([])))
        for window in simulated(rng, 0.0):
            sums = sums + log_sums_of([window])
            if log_e_value(sums) >= math.log(20):
                alarms += 1
                break
    assert alarms <= binom.ppf(1 - 1e-4, 80, 0.05)


def test_the_interval_covers_the_lift_at_every_look() -> None:
    rng = np.random.default_rng(8)
    missed = 0
    for _ in range(40):
        sums, events, users = np.zeros(len(log_sums_of([]))), 0, 0
        for look in range(15):
            n = 500
            x, y = int(rng.binomial(n, 0.2 * 1.15)), int(rng.binomial(n, 0.2))
            sums = sums + log_sums_of([PairCounts(x, n, y, n)])
            events, users = events + y, users + n
            interval = lift_interval(sums, events, users, 0.1)
            assert interval.lower <= interval.value <= interval.upper
            if not interval.lower <= 0.15 <= interval.upper:
                missed += 1
                break
            assert look < 14 or interval.upper - interval.lower < 0.5
    assert missed <= binom.ppf(1 - 1e-4, 40, 0.1)


@pytest.mark.parametrize("rate", [0.002, 0.15, 0.9])
def test_the_estimate_is_the_ratio_of_rates(rate: float) -> None:
    n = 400_000
    pair = PairCounts(round(n * rate * 1.05), n, round(n * rate), n)
    interval = lift_interval(log_sums_of([pair]), pair.control_events, n, 0.05)
    assert interval.value == pytest.approx(0.05, abs=0.003)


def test_without_events_nothing_is_known() -> None:
    interval = lift_interval(log_sums_of([PairCounts(0, 10, 0, 10)]), 0, 10, 0.05)
    assert math.isnan(interval.value)
    assert (interval.lower, interval.upper) == (-1.0, math.inf)
    assert log_e_value(log_sums_of([PairCounts(0, 10, 0, 10)])) == 0.0


def test_counts_that_cannot_be_are_refused() -> None:
    for counts in ((-1, 5, 0, 5), (6, 5, 0, 5), (0, 5, 6, 5)):
        with pytest.raises(DataError, match="cannot be"):
            PairCounts(*counts)


# ------------------------------------------------------------------------------------------------ sample ratio


@pytest.mark.parametrize("weight", [50.0, 5.0])
def test_the_mean_evidence_of_mismatch_without_one_is_one(weight: float) -> None:
    n, weights = 200, {"a": 100 - weight, "b": weight}
    mean = sum(
        float(binom.pmf(b, n, weight / 100)) * math.exp(log_evidence_of_mismatch({"a": n - b, "b": b}, weights))
        for b in range(n + 1)
    )
    assert mean == pytest.approx(1, abs=1e-8)


def test_a_split_looked_at_after_every_hundred_users_is_seldom_called_wrong() -> None:
    rng = np.random.default_rng(9)
    weights = {"a": 60.0, "b": 30.0, "c": 10.0}
    wrong = 0
    for _ in range(300):
        counts = np.zeros(3, dtype=int)
        for _ in range(50):
            counts += rng.multinomial(100, [0.6, 0.3, 0.1])
            if log_evidence_of_mismatch(dict(zip("abc", counts.tolist(), strict=True)), weights) >= math.log(20):
                wrong += 1
                break
    assert wrong <= binom.ppf(1 - 1e-6, 300, 0.05)


def test_a_wrong_split_is_found() -> None:
    halves = {"a": 50.0, "b": 50.0}
    assert log_evidence_of_mismatch({"a": 50_000, "b": 50_100}, halves) < 0
    assert log_evidence_of_mismatch({"a": 50_000, "b": 51_500}, halves) > math.log(1000)
    assert log_evidence_of_mismatch({"a": 10, "b": 1}, {"a": 100, "b": 0}) == math.inf
    assert log_evidence_of_mismatch({"a": 10, "b": 0}, {"a": 100, "b": 0}) == pytest.approx(0, abs=1e-9)
