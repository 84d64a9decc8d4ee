"""Is the candidate's mean worse than stable's, and by how much: evidence that may be looked at after every window.

Values lie in [0, 1]. For one value X with mean mu, a guess m made before it, and a bet lambda in [0, 1),

    exp(lambda (X - mu) - psi(lambda) (X - m)^2),     psi(lambda) = -log(1 - lambda) - lambda

has an expectation of 1 at most (Fan, Grama and Liu 2015), and so does its mirror image in -X: the empirical-Bernstein
supermartingale of Howard et al. 2021 and Waudby-Smith and Ramdas 2024. Within one window m stays what earlier windows
suggest, so that the sum of (X - m)^2 is squares - 2 m total + n m^2 and three counters are enough.

Two arms are set against each other within each window: with n_c and n_s values, n in all, the bets lambda n_s / n on
the candidate and lambda n_c / n against stable multiply to

    exp(lambda h (difference of the means seen - true difference) - psi(..) V_c - psi(..) V_s),    h = n_c n_s / n

in which a swing that both arms share has cancelled. So evidence adds up over windows with different base levels and
different traffic splits, as it does for odds ratios. The mixture over a grid of bets is a supermartingale too; all
differences against which neither side's mixture has reached 1/alpha form a confidence sequence for the difference (for
its average over windows, weighted by h, where it is not the same in all).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from slipway.serving.rollout.core.evidence import log_mean_exp, start_any_time, update_any_time
from slipway.serving.rollout.core.hypergeometric import Floats
from slipway.serving.rollout.core.types import MeanEvidence
from slipway.serving.rollout.core.windows import Moments

BETS: Floats = np.geomspace(0.95, 1e-4, 26)
"""From 0.95 down to 0.0001: the best bet is near sqrt(2 log(1/alpha) / (n variance))."""
BETS.setflags(write=False)

_HALVINGS = 50


def start(key: tuple[float, ...], harms: int) -> MeanEvidence:
    """Returns no evidence yet, against as many differences that harm may begin at as the steps of a policy name."""
    zeros = tuple(np.zeros(len(BETS)).tolist())
    return MeanEvidence(key, zeros, zeros, tuple(start_any_time(harms * len(BETS)).tolist()))


def take(
    old: MeanEvidence, candidate: Moments, stable: Moments, harms: tuple[float, ...], *, higher_is_better: bool
) -> MeanEvidence:
    """Returns the evidence with one more window.

    Args:
        old: Before.
        candidate: What the candidate's values of the window add up to; none tell nothing about the difference.
        stable: Likewise, of stable.
        harms: Differences, in the direction of worse, that harm begins at.
        higher_is_better: Whether a smaller mean is worse.
    """
    counted = replace(
        old,
        candidate_n=old.candidate_n + candidate.n,
        candidate_total=old.candidate_total + candidate.total,
        stable_n=old.stable_n + stable.n,
        stable_total=old.stable_total + stable.total,
    )
    if candidate.n == 0 or stable.n == 0:
        return counted
    own_guess, stable_guess = (
        (total + 0.5) / (n + 1)
        for total, n in ((old.candidate_total, old.candidate_n), (old.stable_total, old.stable_n))
    )
    drawn, penalty, weight = log_increments(
        np.array([candidate.n, candidate.total, candidate.squares, own_guess]),
        np.array([stable.n, stable.total, stable.squares, stable_guess]),
    )
    worse = -drawn if higher_is_better else drawn
    effective, difference = float(weight), candidate.total / candidate.n - stable.total / stable.n
    ratios = np.concatenate([worse - harm * effective * BETS - penalty for harm in harms])
    return replace(
        counted,
        log_worse=tuple((np.array(old.log_worse) + worse - penalty).tolist()),
        log_better=tuple((np.array(old.log_better) - worse - penalty).tolist()),
        log_harm=tuple(update_any_time(np.array(old.log_harm), ratios, old.windows, math.inf).tolist()),
        weight=old.weight + effective,
        weighted=old.weighted + effective * difference,
        windows=old.windows + 1,
    )


def log_increments(candidate: Floats, stable: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns what one window adds to the supermartingales, for many rollouts at once.

    Args:
        candidate: Number of values (at least one), their sum, the sum of their squares, and the guess of their mean
            that earlier windows suggest: shape [4, ...].
        stable: Likewise.

    Returns:
        The gain where the candidate's mean is larger (minus it, where it is smaller) and the penalty that both
        directions pay, each of shape [..., J]; and the effective sample size, shape [...].
    """
    n = candidate[0] + stable[0]
    weight = candidate[0] * stable[0] / n
    gain = (candidate[1] / candidate[0] - stable[1] / stable[0]) * weight
    penalty = _paid(stable[0] / n, candidate) + _paid(candidate[0] / n, stable)
    return np.asarray(gain[..., None] * BETS), penalty, np.asarray(weight)


def log_evidence_worse(evidence: MeanEvidence, difference: float) -> float:
    """Returns log evidence against "worse by `difference` at most"; a negative difference is an improvement."""
    return log_mean_exp(np.array(evidence.log_worse) - difference * evidence.weight * BETS)


def log_evidence_not_worse(evidence: MeanEvidence, difference: float) -> float:
    """Returns log evidence against "worse by `difference` at least"; a negative difference is an improvement."""
    return log_mean_exp(np.array(evidence.log_better) + difference * evidence.weight * BETS)


def log_evidence_harm(evidence: MeanEvidence, index: int) -> float:
    """Returns log evidence that harm has begun, now or earlier, beyond the difference at `index` among those named."""
    return log_mean_exp(np.array(evidence.log_harm[index * len(BETS) : (index + 1) * len(BETS)]))


def mean_bounds(evidence: MeanEvidence, alpha_lower: float, alpha_upper: float) -> tuple[float, float]:
    """Returns a lower and an upper confidence sequence for how much worse the candidate's mean is, each at its alpha.

    Infinite where nothing is excluded yet.
    """
    lower = _edge(lambda value: log_evidence_worse(evidence, value) < math.log(1 / alpha_lower), -1.0)
    upper = _edge(lambda value: log_evidence_not_worse(evidence, value) < math.log(1 / alpha_upper), 1.0)
    return (-math.inf if lower is None else lower), (math.inf if upper is None else upper)


def _edge(inside: Callable[[float], bool], outside: float) -> float | None:
    """Returns the outer border of the differences inside, on the side of `outside`; None where that is inside too."""
    if inside(outside):
        return None
    within = -outside
    for _ in range(_HALVINGS):
        middle = (outside + within) / 2
        outside, within = (outside, middle) if inside(middle) else (middle, within)
    return outside


def psi(bet: Floats) -> Floats:
    """Returns what a bet costs for each unit of squared distance."""
    return np.asarray(-np.log1p(-bet) - bet)


def _paid(share: Floats, arm: Floats) -> Floats:
    """Returns what an arm costs: its bets, a share of the whole, and its squared distances from the guess."""
    n, total, squares, guess = arm
    spread = np.maximum(0.0, squares - 2 * guess * total + n * guess * guess)
    return np.asarray(psi(share[..., None] * BETS) * spread[..., None])
