"""Evidence about an odds ratio that may be looked at after every window: e-processes and a confidence sequence.

For a grid of odds ratios theta_j, the products over windows of P_theta_j(x) / P_theta_0(x) are nonnegative
supermartingales for every true odds ratio on the other side of theta_0, whatever the base rate does and however the
traffic split depends on the past. So is their average E over the grid points beyond theta_0, and Ville's inequality
bounds the chance that E ever reaches 1/alpha by alpha. Only sums of logs are kept: constant memory.

Turner, Ly and Gruenwald 2024; Gruenwald, de Heide and Koolen 2024; Howard, Ramdas, McAuliffe and Sekhon 2021.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from slipway.serving.rollout.core.hypergeometric import Floats, Ints

_FIRST, _GROWTH, _LARGEST = 0.02, 1.2, 4.7
_START_NOW = 0.8
"""Share of the harm evidence that assumes harm from the first window on; the rest is spread over later starts."""


@lru_cache(maxsize=64)
def _grid(extra: tuple[float, ...]) -> tuple[float, ...]:
    size = int(math.log(_LARGEST / _FIRST) / math.log(_GROWTH)) + 1
    positive = [_FIRST * _GROWTH**index for index in range(size)]
    return tuple(sorted({0.0, *extra, *positive, *(-value for value in positive)}))


def log_odds_grid(*extra: float) -> Floats:
    """Returns log odds ratios from 1/110 to 110: fine near 1, coarse far from it, with `extra` points put in.

    Equal weights on them are a prior that is uniform in the logarithm of the effect's size.
    """
    return np.array(_grid(tuple(extra)))


def log_mean_exp(values: Floats) -> float:
    """Returns log of the mean of exp(values); minus infinity for none."""
    return float(log_mean_exps(values))


def log_mean_exps(values: Floats) -> Floats:
    """Returns log of the mean of exp(values) over the last axis, of shape [..., J]; minus infinity for none."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], -np.inf)
    top = values.max(axis=-1)
    return np.asarray(top + np.log(np.exp(values - top[..., None]).mean(axis=-1)))


def log_evidence_above(log_sums: Floats, grid: Floats, null: float) -> float:
    """Returns log evidence against "log odds ratio <= null", null a grid point: mixture over the points above it."""
    return float(log_evidences_above(log_sums, grid, null))


def log_evidences_above(log_sums: Floats, grid: Floats, null: float) -> Floats:
    """Returns the same for log-sums of many rollouts at once, of shape [..., J]."""
    at = int(np.searchsorted(grid, null))
    return log_mean_exps(log_sums[..., at + 1 :] - log_sums[..., at, None])


def log_evidence_below(log_sums: Floats, grid: Floats, null: float) -> float:
    """Returns log evidence against "log odds ratio >= null", null a grid point: mixture over the points below it."""
    return float(log_evidences_below(log_sums, grid, null))


def log_evidences_below(log_sums: Floats, grid: Floats, null: float) -> Floats:
    """Returns the same for log-sums of many rollouts at once, of shape [..., J]."""
    at = int(np.searchsorted(grid, null))
    return log_mean_exps(log_sums[..., :at] - log_sums[..., at, None])


def bounds(log_sums: Floats, grid: Floats, alpha_lower: float, alpha_upper: float) -> tuple[float, float]:
    """Returns a lower and an upper confidence sequence for the log odds ratio, each at its own alpha.

    The lower bound is the largest grid point against which (and all below it) the evidence has reached 1/alpha; the
    upper bound its mirror image. Infinite where nothing is excluded yet.
    """
    size = len(grid)
    beyond = np.arange(1, size)
    from_below = np.logaddexp.accumulate(log_sums)[:-1] - np.log(beyond) - log_sums[1:]
    from_above = np.logaddexp.accumulate(log_sums[::-1])[:-1] - np.log(beyond) - log_sums[::-1][1:]
    above = int(np.argmin(np.append(from_above[::-1] >= math.log(1 / alpha_lower), False)))
    below = int(np.argmin(np.append(from_below[::-1] >= math.log(1 / alpha_upper), False)))
    return (
        float(grid[above - 1]) if above else -math.inf,
        float(grid[size - below]) if below else math.inf,
    )


def point_estimate(log_sums: Floats, grid: Floats) -> float:
    """Returns the log odds ratio of the highest likelihood: a parabola through the best grid point and its neighbours.

    At the ends of the grid, the end itself.
    """
    best = int(np.argmax(log_sums))
    if best in (0, len(grid) - 1):
        return float(grid[best])
    x, y = grid[best - 1 : best + 2], log_sums[best - 1 : best + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curve = (right - left) / (x[2] - x[0])
    if curve >= 0:
        return float(x[1])
    return float(np.clip((x[0] + x[1]) / 2 - left / (2 * curve), x[0], x[2]))


def start_any_time(size: int) -> Floats:
    """Returns the any-start mixture before the first window, as logs, shape [size]."""
    return np.full(size, math.log(_START_NOW))


def update_any_time(log_mixture: Floats, log_ratios: Floats, windows: int | Ints, ceiling: float) -> Floats:
    """Returns the any-start mixture after one more window: S <- S * ratio + w, per alternative.

    A fault may begin late: evidence that only multiplies would first have to work off all the good windows before it.
    S sums, over the window k in which harm may have begun, w_k times the product of the ratios since; the w_k sum to
    1, so S plus the weights still to come is a supermartingale that starts at 1, and Ville's inequality holds as
    before (the mixture form of the Shiryaev-Roberts statistic; Shin, Ramdas and Rinaldo 2024). Cutting S at a ceiling
    only makes it smaller, and lets it come down again when the trouble is over.

    Args:
        log_mixture: Log S, shape [..., J].
        log_ratios: Log-likelihood ratios of this window against the null, shape [..., J].
        windows: Windows taken in before this one, a number or shape [...].
        ceiling: Cut log S here.
    """
    later = math.log((1 - _START_NOW) * 6 / math.pi**2) - 2 * np.log(np.asarray(windows) + 1)
    return np.asarray(np.minimum(np.logaddexp(log_mixture + log_ratios, later[..., None]), ceiling))
