"""Percentile bootstrap over users, paired: every quantity is computed on the same resamples.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 and 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 4_000_000
"""Resampling counts that are held at once: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its confidence interval; NaN where it cannot be computed."""

    value: float
    low: float
    high: float
    users: int


class PairedBootstrap:
    """Means of per-user values, and their changes, with intervals.

    Args:
        values: float64 [n_users, n_columns]; NaN where a user has no value, who then does not count in that column.
        samples: Number of resamples.
        seed: Of the resampling; the same seed and number of users resample the same users.
        confidence: Of the intervals, two-sided.
    """

    def __init__(self, values: NDArray[np.float64], *, samples: int, seed: int, confidence: float = 0.95) -> None:
        n, columns = values.shape
        valid = ~np.isnan(values)
        filled, counted = np.where(valid, values, 0.0), valid.astype(np.float64)
        self._tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        self._users = valid.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._values = filled.sum(axis=0) / self._users
            self._means = np.full((samples, columns), np.nan)
            generator = np.random.default_rng(seed)
            step = max(1, _CELLS // max(n, 1))
            for start in range(0, samples if n else 0, step):
                size = min(step, samples - start)
                drawn = generator.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
                times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
                self._means[start : start + size] = (times @ filled) / (times @ counted)

    def mean(self, column: int) -> Interval:
        """Returns the mean of a column over the users who have a value."""
        return self._interval(float(self._values[column]), self._means[:, column], int(self._users[column]))

    def relative_change(self, column: int, reference: int) -> Interval:
        """Returns (mean of column - mean of reference) / mean of reference, from the same users in each resample.

        Not finite where the reference's mean is zero.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(self._values[column] / self._values[reference] - 1.0)
            changes = self._means[:, column] / self._means[:, reference] - 1.0
        return self._interval(value, changes, int(min(self._users[column], self._users[reference])))

    def _interval(self, value: float, resampled: NDArray[np.float64], users: int) -> Interval:
        known = resampled[~np.isnan(resampled)]
        if not users or not len(known):
            return Interval(float("nan"), float("nan"), float("nan"), users)
        # Linear interpolation between infinities gives NaN; the nearest resample does not.
        low, high = np.quantile(known, self._tails, method="nearest")
        return Interval(value, float(low), float(high), users)
