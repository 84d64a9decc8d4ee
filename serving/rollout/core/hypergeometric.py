"""The exact law of one window, given its margins: Fisher's noncentral hypergeometric distribution.

With n_c requests of the candidate, n_s of stable and k bad events among them all, the candidate's share x of the k has
P(x) proportional to C(n_c, x) C(n_s, k - x) theta^x. The base rate has cancelled: only the odds ratio theta is left,
which is what makes evidence from windows with different base rates and traffic splits comparable.

Fisher 1935; McCullagh and Nelder 1989, section 7.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]

_TAIL = 10.0
"""Half width of the summed support in standard deviations: what is cut off is below 1e-20 of the sum."""


def log_likelihoods(x: float, n_candidate: int, n_stable: int, total_bad: int, log_odds: Floats) -> Floats:
    """Returns log P_theta(x) for each log odds ratio, up to a constant that is the same for all of them.

    Differences between entries are log-likelihood ratios, which is all that evidence needs.

    Args:
        x: Bad events of the candidate; need not be whole where a plan asks what is typical.
        n_candidate: Requests of the candidate.
        n_stable: Requests of stable.
        total_bad: Bad events of both.
        log_odds: Log odds ratios, shape [J].

    Returns:
        Shape [J]; zeros where the window tells nothing (no event, all events, or an arm without requests).
    """
    low, high = max(0, total_bad - n_stable), min(n_candidate, total_bad)
    if low == high:
        return np.zeros(len(log_odds))
    return np.asarray(x * log_odds - _log_normaliser(low, high, n_candidate, n_stable, total_bad, log_odds))


def _log_normaliser(low: int, high: int, n_c: int, n_s: int, k: int, log_odds: Floats) -> Floats:
    """Returns log of the sum over x of C(n_c, x) C(n_s, k - x) theta^x, shape [J], on a window around each mode."""
    mode, deviation = _mode_and_deviation(n_c, n_s, k, log_odds)
    half = int(np.ceil(_TAIL * float(deviation.max()) + 20))
    if high - low + 1 <= 2 * half + 1:
        support = np.arange(low, high + 1, dtype=np.float64)
        terms = _log_weight(support, n_c, n_s, k)[None, :] + log_odds[:, None] * support[None, :]
        return _log_sum(terms)
    first = np.clip(np.rint(mode).astype(np.int64) - half, low, high - 2 * half)
    start = int(first.min())
    # Weights once over the union of all windows; each grid point then reads its own stretch of it.
    weights = _log_weight(np.arange(start, int(first.max()) + 2 * half + 1, dtype=np.float64), n_c, n_s, k)
    stretch = np.arange(2 * half + 1)
    terms = weights[(first - start)[:, None] + stretch[None, :]]
    terms = terms + log_odds[:, None] * (first[:, None] + stretch[None, :])
    return _log_sum(terms)


def _log_weight(x: Floats, n_c: int, n_s: int, k: int) -> Floats:
    """Returns log C(n_c, x) C(n_s, k - x) without the factorials that do not depend on x."""
    return np.asarray(-(gammaln(x + 1) + gammaln(n_c - x + 1) + gammaln(k - x + 1) + gammaln(n_s - k + x + 1)))


def _mode_and_deviation(n_c: int, n_s: int, k: int, log_odds: Floats) -> tuple[Floats, Floats]:
    """Returns mode and standard deviation at each theta, shape [J].

    The mode solves (n_c - x)(k - x) theta = x (n_s - k + x); the inverse variance is the curvature there.
    """
    theta = np.exp(log_odds)
    a, b, c = theta - 1, (n_c + k) * theta + (n_s - k), theta * n_c * k
    mode = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)))
    curvature = (
        1 / np.maximum(mode, 0.5)
        + 1 / np.maximum(n_c - mode, 0.5)
        + 1 / np.maximum(k - mode, 0.5)
        + 1 / np.maximum(n_s - k + mode, 0.5)
    )
    return mode, np.sqrt(1 / curvature)


def _log_sum(terms: Floats) -> Floats:
    """Returns log of the sum of exp over the last axis."""
    top = terms.max(axis=-1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(terms - top).sum(axis=-1)))
