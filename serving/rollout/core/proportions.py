"""One arm by itself: confidence sequences for a rate and for a difference of rates, and evidence for a hard limit.

Howard, Ramdas, McAuliffe and Sekhon 2021 (beta-binomial mixture); Robbins 1970.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaln

from slipway.serving.rollout.core.hypergeometric import Floats, Ints

_PRIOR = 0.5
_NEWTON_STEPS = 60


def rate_interval(bad: int, n: int, alpha: float) -> tuple[float, float]:
    """Returns a confidence sequence for a rate: holds at every n at once with probability 1 - alpha.

    All p with (mixture of Bernoulli likelihoods under Beta(1/2, 1/2)) / (likelihood of p) < 1/alpha. With no event in
    n, the upper bound falls below m after about (ln(1/alpha) + 0.5 ln n) / m samples.

    Args:
        bad: Events, from 0 to n.
        n: Samples; with none, the interval is (0, 1).
        alpha: Chance of ever being wrong.
    """
    lower, upper = rate_intervals(np.array([bad]), np.array([n]), alpha)
    return float(lower[0]), float(upper[0])


def rate_intervals(bad: Ints, n: Ints, alpha: float | Floats) -> tuple[Floats, Floats]:
    """Returns the lower and upper bounds of the same for many counts at once, each of shape [...].

    Args:
        bad: Events, shape [...].
        n: Samples, shape [...].
        alpha: Chance of ever being wrong, a number or shape [...].
    """
    events, rest = np.broadcast_arrays(bad, n - bad)
    limit = betaln(events + _PRIOR, rest + _PRIOR) - betaln(_PRIOR, _PRIOR) + np.log(alpha)
    # The set of rates is the same from both sides: the upper bound is one less the lower bound of the complement.
    edges = _log_lower_edge(np.stack([events, rest]), np.stack([rest, events]), limit)
    return np.where(events > 0, np.exp(edges[0]), 0.0), np.where(rest > 0, -np.expm1(edges[1]), 1.0)


def difference_interval(
    candidate_bad: int, candidate_n: int, stable_bad: int, stable_n: int, alpha: float
) -> tuple[float, float]:
    """Returns a confidence sequence for rate of candidate minus rate of stable: two at alpha/2 each, subtracted.

    The counts must come from a time in which the traffic split did not change: under a changing split, a swing of the
    common base rate would weigh differently in the two arms and look like a difference (Simpson's paradox).
    """
    lower, upper = difference_intervals(
        np.array([candidate_bad]), np.array([candidate_n]), np.array([stable_bad]), np.array([stable_n]), alpha
    )
    return float(lower[0]), float(upper[0])


def difference_intervals(
    candidate_bad: Ints, candidate_n: Ints, stable_bad: Ints, stable_n: Ints, alpha: float | Floats
) -> tuple[Floats, Floats]:
    """Returns the lower and upper bounds of the same for many counts at once, each of shape [...]."""
    lower, upper = rate_intervals(
        np.stack([candidate_bad, stable_bad]), np.stack([candidate_n, stable_n]), np.asarray(alpha) / 2
    )
    return lower[0] - upper[1], upper[0] - lower[1]


def rates_beyond(limit: float) -> Floats:
    """Returns the alternatives of a hard limit: rates from a little above it to nearly 1, even in log-odds."""
    start = math.log(limit / (1 - limit))
    logits = start + np.linspace(0.2, max(8.0 - start, 1.0), 12)
    return np.asarray(1 / (1 + np.exp(-logits)))


def log_limit_ratios(bad: int | Ints, n: int | Ints, limit: float, rates: Floats) -> Floats:
    """Returns log-likelihood ratios of `rates` against the limit, shape [..., J], for counts of shape [...].

    Each ratio rises with the true rate, so the products are supermartingales for every arm whose rate stays at or
    below the limit, be it constant or not.
    """
    events, rest = np.asarray(bad)[..., None], np.asarray(n - bad)[..., None]
    return np.asarray(events * np.log(rates / limit) + rest * np.log((1 - rates) / (1 - limit)))


def _log_lower_edge(events: Ints, rest: Ints, limit: Floats) -> Floats:
    """Returns log of the smallest p with events log p + rest log(1 - p) = limit; meaningless where events are 0.

    Concave in u = log p, and rising below its maximum: a step of Newton's method from anywhere there ends outside the
    set, and every later one stays outside and comes closer. The first point is that of the parabola at the maximum.
    """
    count = np.maximum(events, 1).astype(np.float64)
    estimate = count / (count + rest)
    highest = count * np.log(estimate) + rest * np.log1p(-np.minimum(estimate, 1 - 1e-16))
    limit = np.where(events > 0, limit, highest - 1)
    width = np.sqrt(2 * np.maximum(highest - limit, 0.0) * (1 - estimate) / count)
    u = np.log(estimate) - width - 1e-12
    for _ in range(_NEWTON_STEPS):
        complement = -np.expm1(u)
        height = count * u + rest * np.log(complement) - limit
        step = height / (count - rest * (1 - complement) / complement)
        u = u - step
        if (np.abs(step) <= 1e-14 * np.abs(u)).all():
            break
    return np.asarray(u)
