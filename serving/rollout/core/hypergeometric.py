"""The exact law of one window, given its margins: Fisher's noncentral hypergeometric distribution.

With n_c requests of the candidate, n_s of stable and k bad events among them all, the candidate's share x of the k has
P(x) proportional to C(n_c, x) C(n_s, k - x) theta^x. The base rate has cancelled: only the odds ratio theta is left,
which is what makes evidence from windows with different base rates and traffic splits comparable.

Fisher 1935; McCullagh and Nelder 1989, section 7.3. One window or many at once, by the same code.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NARROW = 128
_LARGEST_EXPONENT = 650.0
_STRIDE = 0.6
_STRIDES = np.array([1, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024])
_EDGES = np.array([-2.5, -1.0, 1.0, 2.5])
_TAIL = 10.0
"""Half width of the summed support in standard deviations: what is cut off is below 1e-20 of the sum."""
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
    """Returns log of the sum, shape [R, J], from points that lie a stride apart, times the stride.

    The law is one of a sum of independent Bernoulli variables, so at t its characteristic function is at most
    exp(-variance (1 - cos t)); by Poisson's summation formula, a stride of 0.6 standard deviations errs by less than
    1e-15 of the sum. Neighbouring odds ratios share their points: seen from the one in the middle, the others are a
    product of matrices.
    """
    mode, deviation = _mode_and_deviation(n_c[:, None], n_s[:, None], k[:, None], log_odds[None, :])
    result = np.empty(mode.shape)
    for columns in _segments(log_odds):
        spread = deviation[:, columns]
        tails = _TAIL * spread.max(axis=1) + 20
        first = np.maximum(low, np.floor(mode[:, columns].min(axis=1) - tails).astype(np.int64))
        last = np.minimum(high, np.ceil(mode[:, columns].max(axis=1) + tails).astype(np.int64))
        widest = np.maximum(_STRIDE * spread.min(axis=1), 1.0)
        stride = _STRIDES[np.searchsorted(_STRIDES, widest, side="right") - 1]
        for step in np.unique(stride).tolist():
            at = np.flatnonzero(stride == step)
            laws = (n_c[at], n_s[at], k[at])
            result[at, columns] = _shared(first[at], last[at], step, laws, log_odds[columns])
    return result


def _segments(log_odds: Floats) -> list[slice]:
    """Returns the stretches of a grid that share their points."""
    edges = [0, *np.searchsorted(log_odds, _EDGES).tolist(), len(log_odds)]
    return [slice(one, other) for one, other in pairwise(edges) if one < other]


def _shared(first: Ints, last: Ints, step: int, laws: tuple[Ints, Ints, Ints], log_odds: Floats) -> Floats:
    """Returns log of the sums over every `step`-th point from `first` to `last`, shape [R, J]."""
    n_c, n_s, k = laws
    points = int((last - first).max()) // step + 1
    middle, centre = float(log_odds[len(log_odds) // 2]), points // 2
    reach = max(points - centre, centre) * step
    if float(np.abs(log_odds - middle).max()) * reach > _LARGEST_EXPONENT and len(log_odds) > 1:
        half = len(log_odds) // 2
        parts = [_shared(first, last, step, laws, part) for part in (log_odds[:half], log_odds[half:])]
        return np.concatenate(parts, axis=1)
    x = first[:, None] + step * np.arange(points)[None, :]
    inside = x <= last[:, None]
    terms = _log_weight(np.minimum(x, last[:, None]), n_c[:, None], n_s[:, None], k[:, None]) + middle * x
    top = terms.max(axis=1, keepdims=True, where=inside, initial=-np.inf)
    shares = np.where(inside, np.exp(np.minimum(terms - top, 0.0)), 0.0)
    offsets = step * (np.arange(points) - centre)
    sums = shares @ np.exp(offsets[:, None] * (log_odds - middle)[None, :])
    at_centre = first + step * centre
    return np.asarray(top + at_centre[:, None] * (log_odds - middle)[None, :] + np.log(sums * step))


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
