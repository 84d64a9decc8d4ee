"""The median stopping rule (Golovin et al. 2017), as Katib's medianstop has it.

A trial is compared once it has made `start_step` reports of the objective: with the median, over the trials that
succeeded, of the mean of their first `start_step` reports. It ends when the best that it has reported is worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median


def median_of_starts(curves: Sequence[Sequence[float]], *, min_trials: int, start_step: int) -> float | None:
    """Returns what a trial is compared with; None while too few trials have succeeded.

    Args:
        curves: The reports of each trial that succeeded, in order.
        min_trials: So many must have succeeded.
        start_step: So many reports of each count.
    """
    starts = [fmean(curve[:start_step]) for curve in curves if curve]
    return median(starts) if len(starts) >= min_trials else None


def falls_behind(reports: Sequence[float], threshold: float | None, *, start_step: int, maximize: bool) -> bool:
    """Says whether a trial with these reports so far is to be ended."""
    if threshold is None or len(reports) < start_step:
        return False
    return max(reports) < threshold if maximize else min(reports) > threshold
