"""What each user has interacted with, as compressed sparse rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SeenItems:
    """`offsets`: int64 [n_users + 1]; `item_rows`: int32 [nnz], ascending within each user, distinct."""

    offsets: NDArray[np.int64]
    item_rows: NDArray[np.int32]

    @classmethod
    def from_pairs(cls, user_rows: NDArray[np.int64], item_rows: NDArray[np.int64], *, n_users: int) -> SeenItems:
        """Builds it from interactions in any order, repeats allowed."""
        order = np.lexsort((item_rows, user_rows))
        users, items = user_rows[order], item_rows[order]
        fresh = np.ones(len(order), dtype=np.bool_)
        fresh[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        counts = np.bincount(users[fresh], minlength=n_users)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(offsets, items[fresh].astype(np.int32))

    def of(self, user_row: int) -> NDArray[np.int32]:
        """Returns the item rows of one user; empty for -1."""
        if user_row < 0:
            return self.item_rows[:0]
        return self.item_rows[self.offsets[user_row] : self.offsets[user_row + 1]]

    def pairs(self, user_rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (positions into `user_rows`, item rows) of everything that these users have seen; -1 has nothing."""
        known = np.maximum(user_rows, 0)
        starts = self.offsets[known]
        counts = np.where(user_rows >= 0, self.offsets[known + 1] - starts, 0)
        positions = np.repeat(np.arange(len(user_rows)), counts)
        within = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
        return positions, self.item_rows[np.repeat(starts, counts) + within].astype(np.int64)
