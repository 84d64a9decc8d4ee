"""One arm by itself: confidence sequences for a rate and for a difference of rates, and evidence for a hard limit.

Howard, Ramdas, McAuliffe and Sekhon 2021 (beta-binomial mixture); Robbins 1970.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import betaln

from slipway.serving.rollout.core.hypergeometric import Floats

_PRIOR = 0.5
_HALVINGS = 40


def rate_interval(bad: int, n: int, alpha: float) -> tuple[float, float]:
    """Returns a confidence sequence for a rate: holds at every n at once with probability 1 - alpha.

    All p with (mixture of Bernoulli likelihoods under Beta(1/2, 1/2)) / (likelihood of p) < 1/alpha. With no event in
    n, the upper bound falls below m after about (ln(1/alpha) + 0.5 ln n) / m samples.

    Args:
        bad: Events, from 0 to n.
        n: Samples; with none, the interval is (0, 1).
        alpha: Chance of ever being wrong.
    """
    if n <= 0:
        return 0.0, 1.0
    mixture = float(betaln(bad + _PRIOR, n - bad + _PRIOR) - betaln(_PRIOR, _PRIOR))
    limit = mixture - math.log(1 / alpha)

    def inside(p: float) -> bool:
        return _log_likelihood(bad, n, p) > limit

    estimate = bad / n
    lower = 0.0 if bad == 0 else _edge(inside, 0.0, estimate)
    upper = 1.0 if bad == n else _edge(inside, 1.0, estimate)
    return lower, upper


def difference_interval(
    candidate_bad: int, candidate_n: int, stable_bad: int, stable_n: int, alpha: float
) -> tuple[float, float]:
    """Returns a confidence sequence for rate of candidate minus rate of stable: two at alpha/2 each, subtracted.

    The counts must come from a time in which the traffic split did not change: under a changing split, a swing of the
    common base rate would weigh differently in the two arms and look like a difference (Simpson's paradox).
    """
    candidate = rate_interval(candidate_bad, candidate_n, alpha / 2)
    stable = rate_interval(stable_bad, stable_n, alpha / 2)
    return candidate[0] - stable[1], candidate[1] - stable[0]


def rates_beyond(limit: float) -> Floats:
    """Returns the alternatives of a hard limit: rates from a little above it to nearly 1, even in log-odds."""
    start = math.log(limit / (1 - limit))
    logits = start + np.linspace(0.2, max(8.0 - start, 1.0), 12)
    return np.asarray(1 / (1 + np.exp(-logits)))


def log_limit_ratios(bad: int, n: int, limit: float, rates: Floats) -> Floats:
    """Returns log-likelihood ratios of `rates` against the limit, shape [J].

    Each ratio rises with the true rate, so the products are supermartingales for every arm whose rate stays at or
    below the limit, be it constant or not.
    """
    return np.asarray(bad * np.log(rates / limit) + (n - bad) * np.log((1 - rates) / (1 - limit)))


def _log_likelihood(bad: int, n: int, p: float) -> float:
    left = 0.0 if bad == 0 else bad * math.log(p) if p > 0 else -math.inf
    right = 0.0 if bad == n else (n - bad) * math.log1p(-p) if p < 1 else -math.inf
    return left + right


def _edge(inside: Callable[[float], bool], outside: float, within: float) -> float:
    """Returns the border between a point outside the set and one within it, on the side of the former."""
    if inside(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + within) / 2
        outside, within = (outside, middle) if inside(middle) else (middle, within)
    return outside
