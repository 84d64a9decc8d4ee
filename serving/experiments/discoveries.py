"""Which of many experiments to believe: control of the false discovery rate by e-values.

An e-value is a nonnegative statistic whose mean under the null hypothesis is at most 1. Evidence that may be looked at
at any time is one at every stopping time, and e-values need no independence: experiments may share users, and end when
their figures say so. The evidence to hand in is that of the moment of the decision, never its highest value so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Flags = NDArray[np.bool_]


def e_bh(log_e_values: ArrayLike, fdr: float) -> Flags:
    """Returns which hypotheses are rejected, with a false discovery rate of at most `fdr` under any dependence.

    With the e-values in falling order, the k largest are rejected for the largest k with e_(k) >= m / (k fdr).

    Wang and Ramdas 2022.

    Args:
        log_e_values: Natural logs of m e-values, shape [m]; minus infinity for no evidence at all.
        fdr: Tolerated expected part of false discoveries among all, above 0 and below 1.
    """
    values = np.asarray(log_e_values, dtype=np.float64)
    count = len(values)
    order = np.argsort(-values, kind="stable")
    needed = np.log(count / (np.arange(1, count + 1) * fdr)) if count else np.zeros(0)
    enough = np.flatnonzero(values[order] >= needed)
    rejected = np.zeros(count, dtype=np.bool_)
    if len(enough):
        rejected[order[: enough[-1] + 1]] = True
    return rejected


def level_after_selection(alpha: float, selected: int, count: int) -> float:
    """Returns the level of intervals for selected hypotheses only (e-BY).

    Of the intervals shown, the expected part that misses its true value is then at most alpha, whatever the dependence
    and the rule of selection, as long as each is the inversion of e-values.

    Xu, Wang and Ramdas 2024.
    """
    return alpha * selected / count


@dataclass(frozen=True)
class OnlineDiscoveries:
    """Decides on experiments one after another, for good, as they end; their number need not be known (e-LOND).

    The t-th e-value is rejected when it is at least 1 / (fdr g_t (d + 1)), with d discoveries before it and
    g_t = 1 / (t (t + 1)), which sum to 1. The false discovery rate is at most `fdr` after every decision and under any
    dependence.

    Xu and Ramdas 2024.

    Args:
        fdr: Tolerated false discovery rate.
        decided: Experiments decided so far.
        discoveries: Discoveries among them.
    """

    fdr: float
    decided: int = 0
    discoveries: int = 0

    @property
    def log_needed(self) -> float:
        """Log of the e-value that the next experiment needs."""
        turn = self.decided + 1
        return math.log(turn * (turn + 1) / (self.fdr * (self.discoveries + 1)))

    def decide(self, log_e_value: float) -> tuple[bool, OnlineDiscoveries]:
        """Returns whether the next experiment is a discovery, and the state after it."""
        found = log_e_value >= self.log_needed
        return found, OnlineDiscoveries(self.fdr, self.decided + 1, self.discoveries + found)
