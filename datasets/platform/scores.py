"""The best AUC that any model can reach: that of the true probabilities, counted in bounded memory.

A label drawn with probability p is ordered best by p itself (Neyman and Pearson 1933). Positives and negatives are
counted in bins of logit(p), narrow enough that ties within a bin move the AUC by less than 0.001.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_WIDEST = 16.0


class LabelCounts:
    """Counts of one label's positives and negatives by true probability; counts of parts may be added."""

    def __init__(self) -> None:
        self.positives = np.zeros(BINS, np.int64)
        self.negatives = np.zeros(BINS, np.int64)

    def add(self, probability: NDArray[np.floating], label: NDArray[np.bool_]) -> None:
        """Counts one part of the rows."""
        clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
        logit = np.log(clipped / (1 - clipped))
        bins = np.clip((logit + _WIDEST) * (BINS / (2 * _WIDEST)), 0, BINS - 1).astype(np.int64)
        self.positives += np.bincount(bins[label], minlength=BINS)
        self.negatives += np.bincount(bins[~label], minlength=BINS)

    def merge(self, other: LabelCounts) -> None:
        """Adds the counts of another part."""
        self.positives += other.positives
        self.negatives += other.negatives

    def best_auc(self) -> float | None:
        """Returns the share of (positive, negative) pairs that the true probability puts in order, ties half."""
        positives, negatives = int(self.positives.sum()), int(self.negatives.sum())
        if positives == 0 or negatives == 0:
            return None
        below = np.cumsum(self.negatives) - self.negatives
        ordered = float((self.positives * (below + 0.5 * self.negatives)).sum())
        return ordered / (positives * negatives)

    def summary(self) -> dict[str, Any]:
        """Returns the numbers that stand beside the label."""
        positives, rows = int(self.positives.sum()), int(self.positives.sum() + self.negatives.sum())
        auc = self.best_auc()
        return {"rows": rows, "positives": positives, "best_auc": None if auc is None else round(auc, 6)}
