"""Evidence on a difference of rates: rarely too much for a tolerated one, soon enough for a larger one, at any step."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from slipway.serving.rollout.core.differences import BEYOND, MEMORY, guess_of, log_difference_ratios
from slipway.serving.rollout.core.evidence import log_mean_exps, start_any_time, update_any_time
from slipway.serving.rollout.core.hypergeometric import Floats
from tests.support.judging import Court, policy_of

MARGIN = 0.01
ERRORS = {"name": "errors", "kind": "errors", "margin": {"absolute": MARGIN}}


def expectation(p: float, q: float, n_c: int, n_s: int, guess: float, margin: float) -> Floats:
    """Returns the exact expectation of one window's evidence, for each alternative, by going through all its counts."""
    total = np.zeros(len(BEYOND))
    for x, y in itertools.product(range(n_c + 1), range(n_s + 1)):
        chance = math.comb(n_c, x) * p**x * (1 - p) ** (n_c - x) * math.comb(n_s, y) * q**y * (1 - q) ** (n_s - y)
        total += chance * np.exp(log_difference_ratios(x, n_c, y, n_s, guess, margin))
    return total


@pytest.mark.parametrize(("n_c", "n_s"), [(1, 1), (2, 12), (12, 2), (7, 7)])
@pytest.mark.parametrize("guess", [0.0, 0.02, 0.4, 0.97])
def test_a_window_of_a_tolerated_difference_brings_nothing_whatever_the_base_rate_and_however_wrong_its_guess(
    n_c: int, n_s: int, guess: float
) -> None:
    for margin, stable in itertools.product((0.01, 0.2), (0.0, 0.01, 0.3, 0.8)):
        for worse in (margin, 0.0, -0.3):
            candidate = min(1.0, max(0.0, stable + worse))
            assert expectation(candidate, stable, n_c, n_s, guess, margin).max() <= 1 + 1e-12


def test_a_window_of_a_larger_difference_brings_evidence() -> None:
    assert np.log(expectation(0.6, 0.05, 8, 12, 0.05, 0.1)).max() > 1.0


def test_a_window_without_requests_of_an_arm_brings_nothing() -> None:
    assert not log_difference_ratios(3, 50, 0, 0, 0.01, MARGIN).any()
    assert not log_difference_ratios(0, 0, 3, 50, 0.01, MARGIN).any()


def stopped(
    extra: float, windows: int, *, runs: int, level: float, splits: tuple[int, ...], base: float = 0.005, moving: bool
) -> Floats:
    """Returns the window at which each run is stopped, infinite for never; `splits` are taken in turn."""
    rng = np.random.default_rng(21)
    mixture = np.tile(start_any_time(len(BEYOND)), (runs, 1))
    seen, found = np.zeros((2, runs)), np.full(runs, np.inf)
    for window in range(windows):
        rate = base
        if moving:
            rate = 8 * base if window % 41 == 40 else base * (1 + 0.9 * math.sin(window / 7))
        n_c = splits[window * len(splits) // windows]
        n_s = 1500 - n_c
        x, y = rng.binomial(n_c, rate + extra, runs), rng.binomial(n_s, rate, runs)
        guess = guess_of(seen[0], seen[1], MARGIN)
        ratios = log_difference_ratios(x, np.full(runs, n_c), y, np.full(runs, n_s), guess, MARGIN)
        mixture = update_any_time(mixture, ratios, window, math.inf)
        seen = MEMORY * seen + np.stack([y, np.full(runs, n_s)])
        found = np.where(np.isinf(found) & (log_mean_exps(mixture) >= math.log(1 / level)), window + 1, found)
    return found


@pytest.mark.parametrize("moving", [False, True])
def test_a_candidate_at_the_margin_is_taken_back_more_rarely_than_alpha_while_the_split_changes(moving: bool) -> None:
    found = stopped(MARGIN, 120, runs=300, level=0.05, splits=(15, 150, 750), moving=moving)
    assert np.isfinite(found).sum() <= 15  # 5 % of 300; the measured share is near 1.5 %.


def test_a_difference_of_twice_the_margin_is_found_within_a_small_factor_of_the_fewest_windows_possible() -> None:
    """Wald's bound: a test that knows both rates needs log(1/level) over the divergence from the nearest tolerated
    rates: at a tenth of the traffic, 1.5 % for the candidate instead of 2.5 %."""
    level, n_c = 0.01, 150
    divergence = 0.025 * math.log(0.025 / 0.015) + 0.975 * math.log(0.975 / 0.985)
    fewest = math.log(1 / level) / (n_c * divergence)
    found = stopped(2 * MARGIN, 80, runs=200, level=level, splits=(n_c,), moving=False)
    assert np.isfinite(found).mean() > 0.97
    assert fewest * 0.6 < np.median(found) < 1.6 * fewest


def test_evidence_on_a_difference_goes_on_at_the_next_step() -> None:
    court = Court(policy_of(ERRORS), step=0)
    for _ in range(3):
        court.count("errors", (5, 50), (5, 950))
    before = court.verdict("errors")
    court.to_step(1)
    after = court.verdict("errors")
    assert before.log_evidence_harm == after.log_evidence_harm > 2.0
    assert after.step_samples == 0


def test_the_evidence_shown_is_that_of_the_margin_which_holds_the_candidate_in() -> None:
    """Both margins have to be exceeded: three times the odds is much, a fifth of a point is not."""
    court = Court(policy_of({**ERRORS, "margin": {"odds_ratio": 1.5, "absolute": MARGIN}}))
    for _ in range(30):
        court.count("errors", (15, 5000), (5, 5000))
    verdict = court.verdict("errors")
    assert verdict.outcome == "PASS"
    assert verdict.log_evidence_harm < verdict.log_evidence_needed


def test_a_difference_that_begins_late_is_found_within_windows() -> None:
    court = Court(policy_of(ERRORS))
    for _ in range(60):
        court.count("errors", (4, 500), (4, 500))
    assert court.verdict("errors").outcome == "PASS"
    found = 0
    while court.verdict("errors").outcome != "FAIL" and found < 20:
        court.count("errors", (40, 500), (4, 500))
        found += 1
    assert found <= 4


def test_two_margins_of_two_steps_share_the_level() -> None:
    tighter = [
        {"weight": 5, "minimum_samples": 10, "margins": {"errors": {"absolute": 0.05}}},
        {"weight": 50, "minimum_samples": 10},
        {"weight": 100, "minimum_samples": 0},
    ]
    one, two = Court(policy_of(ERRORS)), Court(policy_of(ERRORS, steps=tighter))
    for court in (one, two):
        court.count("errors", (8, 500), (4, 500))
    needed = one.verdict("errors").log_evidence_needed, two.verdict("errors").log_evidence_needed
    assert needed[1] - needed[0] == pytest.approx(math.log(2))


def test_a_difference_is_proven_only_when_its_upper_bound_lies_inside_the_margin() -> None:
    court = Court(policy_of(ERRORS))
    court.count("errors", (0, 100), (0, 100))
    undecided = court.verdict("errors")
    assert undecided.outcome == "INCONCLUSIVE"
    assert undecided.upper is not None
    assert undecided.upper > MARGIN
    court.count("errors", (0, 5000), (0, 5000))
    assert court.verdict("errors").outcome == "PASS"
