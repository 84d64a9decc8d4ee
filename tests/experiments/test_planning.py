"""Plans: what they promise, simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from slipway.contracts.errors import UsageError
from slipway.serving.experiments.planning import (
    Design,
    fixed_power,
    fixed_users,
    minimum_detectable_lift,
    sequential_users,
    simulate,
)

DESIGNS = [
    Design(0.15, 0.1),
    Design(0.15, -0.1, alpha=0.01, power=0.9),
    Design(0.05, 0.2, candidate_share=0.2),
    Design(0.4, 0.05, two_sided=False),
]


@pytest.mark.parametrize("design", DESIGNS)
def test_the_fixed_plan_has_its_power_and_its_error_by_simulation(design: Design) -> None:
    rng, runs = np.random.default_rng(3), 40_000
    n_c = round(fixed_users(design) * design.candidate_share)
    n_s = fixed_users(design) - n_c

    def found(rate: float) -> float:
        x, y = rng.binomial(n_c, rate, runs), rng.binomial(n_s, design.baseline, runs)
        pooled = (x + y) / (n_c + n_s)
        z = (x / n_c - y / n_s) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_s))
        if design.two_sided:
            return float((np.abs(z) > norm.isf(design.alpha / 2)).mean())
        return float((z * math.copysign(1, design.lift) > norm.isf(design.alpha)).mean())

    assert found(design.rate) == pytest.approx(design.power, abs=0.012)
    assert found(design.baseline) == pytest.approx(design.alpha, abs=0.006)
    assert fixed_power(design, fixed_users(design)) == pytest.approx(design.power, abs=0.001)


@pytest.mark.parametrize("design", DESIGNS[:2])
def test_the_sequential_plan_has_its_power_at_the_end_and_mostly_ends_before(design: Design) -> None:
    rng, runs = np.random.default_rng(5), 100
    users = sequential_users(design)
    result = simulate(design, users, 8, rng, runs=runs)
    assert result.power >= binom.ppf(1e-3, runs, design.power) / runs
    assert result.power <= 0.97
    assert result.mean_users < 0.75 * users
    assert fixed_users(design) < users < 3 * fixed_users(design)


def test_without_a_lift_looks_at_any_time_are_seldom_false_alarms() -> None:
    design = Design(0.15, 0.1)
    result = simulate(design, 5_000, 10, np.random.default_rng(6), runs=150, lift=0.0)
    assert result.power <= binom.ppf(1 - 1e-4, 150, design.alpha) / 150


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("lift", [0.05, -0.05])
def test_the_smallest_visible_lift_is_the_one_that_needs_so_many_users(lift: float, sequential: bool) -> None:
    design = Design(0.15, lift)
    users = sequential_users(design) if sequential else fixed_users(design)
    assert minimum_detectable_lift(design, users, sequential=sequential) == pytest.approx(lift, rel=0.01)


def test_more_is_needed_for_less() -> None:
    assert fixed_users(Design(0.15, 0.01)) > 3.9 * fixed_users(Design(0.15, 0.02))
    assert fixed_users(Design(0.15, 0.02, power=0.9)) > fixed_users(Design(0.15, 0.02))
    assert fixed_users(Design(0.15, 0.02, candidate_share=0.1)) > 2 * fixed_users(Design(0.15, 0.02))


@pytest.mark.parametrize(
    "wrong",
    [
        {"baseline": 0},
        {"baseline": 1.2},
        {"lift": 0},
        {"lift": 6},
        {"lift": -1},
        {"alpha": 0},
        {"power": 0.01},
        {"power": 1},
        {"candidate_share": 1},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Design(**{"baseline": 0.15, "lift": 0.02} | wrong)


def test_a_handful_of_users_shows_nothing() -> None:
    with pytest.raises(UsageError, match="show no lift"):
        minimum_detectable_lift(Design(0.01, -0.1), 20)
