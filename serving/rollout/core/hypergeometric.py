"""The exact law of one window, given its margins: Fisher's noncentral hypergeometric distribution.

With n_c requests of the candidate, n_s of stable and k bad events among them all, the candidate's share x of the k has
P(x) proportional to C(n_c, x) C(n_s, k - x) theta^x. The base rate has cancelled: only the odds ratio theta is left,
which is what makes evidence from windows with different base rates and traffic splits comparable.

Fisher 1935; McCullagh and Nelder 1989, section 7.3. One window or many at once, by the same code.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NARROW = 128
_LARGEST_EXPONENT = 650.0
_STRIDE = 0.6
_REACHES = ((1, 1, 70), (3, 7, 30), (8, np.iinfo(np.int64).max, 22))
"""Strides from, to, and points to each side: ten standard deviations and twenty more points, beyond which lies less
than 1e-20 of the sum."""
_CHUNK = 256
_TABLE = 1 << 18


def log_likelihoods(
    x: float | Floats | Ints,
    n_candidate: int | Ints,
    n_stable: int | Ints,
    total_bad: int | Ints,
    log_odds: Floats,
) -> Floats:
    """Returns log P_theta(x) for each log odds ratio, up to a constant that is the same for all of them.

    Differences between entries are log-likelihood ratios, which is all that evidence needs.

    Args:
        x: Bad events of the candidate, a number or shape [...]; need not be whole where a plan asks what is typical.
        n_candidate: Requests of the candidate, likewise.
        n_stable: Requests of stable.
        total_bad: Bad events of both.
        log_odds: Log odds ratios, shape [J].

    Returns:
        Shape [..., J]; zeros where the window tells nothing (no event, all events, or an arm without requests).
    """
    x, n_c, n_s, k = np.broadcast_arrays(x, n_candidate, n_stable, total_bad)
    shape = x.shape
    n_c, n_s, k = (np.asarray(part, dtype=np.int64).reshape(-1) for part in (n_c, n_s, k))
    low, high = np.maximum(0, k - n_s), np.minimum(n_c, k)
    normaliser = np.zeros((low.size, len(log_odds)))
    informative = low < high
    most = min(_NARROW, int(_LARGEST_EXPONENT / max(1e-9, float(np.abs(log_odds).max(initial=0.0)))))
    width = high - low + 1
    narrowest = 1
    for widest in (8, 16, 32, 64, most):
        rows = np.flatnonzero(informative & (width > narrowest) & (width <= min(widest, most)))
        if rows.size:
            normaliser[rows] = _narrow(low[rows], high[rows], n_c[rows], n_s[rows], k[rows], log_odds, widest)
        narrowest = max(narrowest, min(widest, most))
    wide = np.flatnonzero(informative & (width > most))
    for begin in range(0, wide.size, _CHUNK):
        rows = wide[begin : begin + _CHUNK]
        normaliser[rows] = _wide(low[rows], high[rows], n_c[rows], n_s[rows], k[rows], log_odds)
    terms = np.asarray(x, dtype=np.float64).reshape(-1, 1) * log_odds[None, :] - normaliser
    return np.asarray(np.where(informative[:, None], terms, 0.0).reshape((*shape, len(log_odds))))


def _narrow(low: Ints, high: Ints, n_c: Ints, n_s: Ints, k: Ints, log_odds: Floats, width: int) -> Floats:
    """Returns log of the sum over the whole support, shape [R, J]: one product of matrices.

    Nothing overflows or is lost, since width times the largest log odds ratio stays below the largest exponent.
    """
    offsets = np.arange(width)
    x = low[:, None] + offsets[None, :]
    inside = x <= high[:, None]
    weights = _log_weight(np.minimum(x, high[:, None]), n_c[:, None], n_s[:, None], k[:, None])
    top = weights.max(axis=1, keepdims=True)
    terms = np.where(inside, np.exp(weights - top), 0.0)
    sums = terms @ np.exp(np.minimum(offsets[:, None] * log_odds[None, :], _LARGEST_EXPONENT))
    return np.asarray(top + low[:, None] * log_odds[None, :] + np.log(sums))


def _wide(low: Ints, high: Ints, n_c: Ints, n_s: Ints, k: Ints, log_odds: Floats) -> Floats:
    """Returns log of the sum, shape [R, J], from points around each mode that lie a stride apart, times the stride.

    The law is one of a sum of independent Bernoulli variables, so at t its characteristic function is at most
    exp(-variance (1 - cos t)); by Poisson's summation formula, a stride of 0.6 standard deviations errs by less than
    1e-15 of the sum.
    """
    mode, deviation = _mode_and_deviation(n_c[:, None], n_s[:, None], k[:, None], log_odds[None, :])
    stride = np.floor(_STRIDE * deviation).astype(np.int64)
    stride = np.where(stride < 3, 1, stride)
    centre = np.clip(np.rint(mode).astype(np.int64), low[:, None], high[:, None])
    result = np.empty(mode.shape)
    for first, last, reach in _REACHES:
        rows, columns = np.nonzero((stride >= first) & (stride <= last))
        if not rows.size:
            continue
        step = stride[rows, columns][:, None]
        x = centre[rows, columns][:, None] + step * np.arange(-reach, reach + 1)[None, :]
        least, greatest = low[rows][:, None], high[rows][:, None]
        inside = (x >= least) & (x <= greatest)
        x = np.clip(x, least, greatest)
        terms = _log_weight(x, n_c[rows][:, None], n_s[rows][:, None], k[rows][:, None])
        terms += log_odds[columns][:, None] * x
        top = terms.max(axis=1, keepdims=True)
        sums = np.where(inside, np.exp(terms - top), 0.0).sum(axis=1)
        result[rows, columns] = top[:, 0] + np.log(sums * step[:, 0])
    return result


def _log_weight(x: Ints, n_c: Ints, n_s: Ints, k: Ints) -> Floats:
    """Returns log C(n_c, x) C(n_s, k - x) without the factorials that do not depend on x."""
    return -(_log_factorial(x) + _log_factorial(n_c - x) + _log_factorial(k - x) + _log_factorial(n_s - k + x))


@lru_cache(maxsize=1)
def _factorials() -> Floats:
    return np.asarray(gammaln(np.arange(_TABLE) + 1.0))


def _log_factorial(n: Ints) -> Floats:
    if n.size and int(n.max()) < _TABLE:
        return np.asarray(_factorials()[n])
    return np.asarray(gammaln(n + 1.0))


def _mode_and_deviation(n_c: Ints, n_s: Ints, k: Ints, log_odds: Floats) -> tuple[Floats, Floats]:
    """Returns mode and standard deviation at each theta, of the shape that the arguments broadcast to.

    The mode solves (n_c - x)(k - x) theta = x (n_s - k + x); the inverse variance is the curvature there.
    """
    theta = np.exp(log_odds)
    product = n_c.astype(np.float64) * k
    a, b, c = theta - 1, (n_c + k) * theta + (n_s - k), theta * product
    mode = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)))
    curvature = (
        1 / np.maximum(mode, 0.5)
        + 1 / np.maximum(n_c - mode, 0.5)
        + 1 / np.maximum(k - mode, 0.5)
        + 1 / np.maximum(n_s - k + mode, 0.5)
    )
    return mode, np.sqrt(1 / curvature)
