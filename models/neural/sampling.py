"""What is drawn for training: the order of the pairs, the negatives, and whose identity is hidden.

Draws come from Philox, a generator with a counter (Salmon et al. 2011): those of a pair depend on the seed, the epoch
and the pair's place in the epoch's order, and on nothing that was drawn before. So several processes, each with the
pairs of its own users, together draw what one process does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Philox makes this many numbers of 64 bits a step of its counter.
_BLOCK = 4


@dataclass(frozen=True)
class Share:
    """A part of a batch. `users` int64 [p], `items` int64 [p, 1 + negatives], the first of each row the taken one.

    `labels` float32 [p, 1 + negatives]; `hidden` bool [p]: users that are taken for unknown.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    labels: NDArray[np.float32]
    hidden: NDArray[np.bool_]


class EpochSampler:
    """Draws one epoch, for the users of one process: those with `user % size == rank`.

    Args:
        pairs: int64 [n], distinct and sorted: user row * n_items + item row.
        n_items: Items.
        negatives: Drawn a pair.
        unknown_share: Of the pairs, whose user is hidden.
        seed: Of the training.
        epoch: From 0.
        rank: Of the process.
        size: Processes.
    """

    def __init__(
        self,
        pairs: NDArray[np.int64],
        *,
        n_items: int,
        negatives: int,
        unknown_share: float,
        seed: int,
        epoch: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self._pairs, self._n_items = pairs, n_items
        self._negatives, self._unknown_share = negatives, unknown_share
        self._order = np.random.default_rng([seed, epoch]).permutation(pairs)
        self._own = None if size == 1 else (self._order // n_items) % size == rank
        self._key = np.random.SeedSequence([seed, epoch, 1]).generate_state(2, np.uint64)
        self._blocks = -(-(negatives + 1) // _BLOCK)

    def share(self, first: int, last: int) -> Share:
        """Returns this process's pairs, maybe none, of those at `first` to before `last` in the epoch's order."""
        part, uniform = self._order[first:last], self._uniform(first, last)
        if self._own is not None:
            own = self._own[first:last]
            part, uniform = part[own], uniform[own]
        users = part // self._n_items
        items = np.empty((len(part), 1 + self._negatives), dtype=np.int64)
        items[:, 0] = part % self._n_items
        items[:, 1:] = np.minimum(uniform[:, : self._negatives] * self._n_items, self._n_items - 1)
        # A drawn item that the user did take is no negative.
        keys = users[:, None] * self._n_items + items
        taken = self._pairs[np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)] == keys
        taken[:, 0] = True
        return Share(users, items, taken.astype(np.float32), uniform[:, self._negatives] < self._unknown_share)

    def _uniform(self, first: int, last: int) -> NDArray[np.float64]:
        bits = np.random.Philox(key=self._key)
        bits.advance(first * self._blocks)
        return np.random.Generator(bits).random((last - first, self._blocks * _BLOCK))
