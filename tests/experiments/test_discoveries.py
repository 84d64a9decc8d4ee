"""e-BH and e-LOND: by their definitions, and by the false discoveries that they let through."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.serving.experiments.discoveries import OnlineDiscoveries, e_bh, level_after_selection

logs = st.lists(st.floats(-5, 12) | st.just(-math.inf), max_size=12)


@given(logs, st.floats(0.01, 0.5))
def test_e_bh_is_the_largest_self_consistent_set(values: list[float], fdr: float) -> None:
    rejected = e_bh(values, fdr)
    count, found = len(values), int(rejected.sum())
    consistent = [k for k in range(1, count + 1) if sum(v >= math.log(count / (k * fdr)) for v in values) >= k]
    assert found == max(consistent, default=0)
    if 0 < found < count:
        assert min(np.array(values)[rejected]) >= max(np.array(values)[~rejected])


def test_e_bh_by_hand() -> None:
    assert e_bh(np.log([100, 60, 39, 1]), 0.05).tolist() == [True, True, True, False]  # needs 80, 40, 26.7, 20
    assert e_bh(np.log([79, 29, 19]), 0.05).tolist() == [True, False, False]  # needs 60, 30, 20
    assert e_bh(np.log([59, 31, 19]), 0.05).tolist() == [True, True, False], "two of at least 30 carry each other"
    assert e_bh([], 0.05).tolist() == []
    assert e_bh([-math.inf, math.inf], 0.05).tolist() == [False, True]


def heavy_e_values(rng: np.random.Generator, null: np.ndarray, shared: bool) -> np.ndarray:
    """Returns logs of Gaussian likelihood ratios exp(s z - s^2 / 2): exact e-values where z has mean 0."""
    noise = rng.standard_normal() if shared else rng.standard_normal(len(null))
    strength = 3.0
    return np.asarray(strength * (noise + np.where(null, 0.0, 3.5)) - strength**2 / 2)


@pytest.mark.parametrize("shared", [False, True])
def test_false_discovery_rates_hold_also_when_all_evidence_is_the_same(shared: bool) -> None:
    rng = np.random.default_rng(4)
    null = np.arange(50) % 5 != 0
    offline, online, found = [], [], 0
    for _ in range(2000):
        values = heavy_e_values(rng, null, shared)
        rejected = e_bh(values, 0.1)
        offline.append((rejected & null).sum() / max(1, rejected.sum()))
        found += int((rejected & ~null).sum())
        state, decisions = OnlineDiscoveries(0.1), []
        for value in values:
            decision, state = state.decide(float(value))
            decisions.append(decision)
        online.append((np.array(decisions) & null).sum() / max(1, sum(decisions)))
        assert (state.decided, state.discoveries) == (50, sum(decisions))
    assert np.mean(offline) <= 0.1
    assert np.mean(online) <= 0.1
    assert found > 2000, "nothing true was found, so the rate says nothing"


def test_the_same_values_taken_one_by_one_at_0_05_are_false_far_more_often() -> None:
    rng = np.random.default_rng(4)
    null = np.ones(50, dtype=bool)
    one_by_one = [(heavy_e_values(rng, null, False) >= math.log(20)).any() for _ in range(2000)]
    assert np.mean(one_by_one) > 0.2


def test_e_lond_thresholds() -> None:
    state = OnlineDiscoveries(0.05)
    assert state.log_needed == pytest.approx(math.log(2 / 0.05))
    found, state = state.decide(math.log(41))
    assert found
    assert state.log_needed == pytest.approx(math.log(6 / (0.05 * 2)))
    found, state = state.decide(0.0)
    assert not found
    assert state.log_needed == pytest.approx(math.log(12 / (0.05 * 2)))


def test_intervals_of_a_tenth_are_held_to_a_tenth_of_the_level() -> None:
    assert level_after_selection(0.05, 10, 100) == pytest.approx(0.005)
