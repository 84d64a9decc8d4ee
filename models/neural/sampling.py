"""What is drawn for training: the order of the pairs, the negatives, and whose identity is hidden.

Draws come from Philox, a generator with a counter (Salmon et al. 2011): those of a pair depend on the seed, the epoch
and the pair's place in the epoch's order, and on nothing that was drawn before. So each of several processes draws the
rows of its own share and no others, and together they draw what one process would.
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
    """Draws one epoch.

    Args:
        pairs: int64 [n], distinct and sorted: user row * n_items + item row.
        n_items: Items.
        negatives: Drawn a pair.
        unknown_share: Of the pairs, whose user is hidden.
        seed: Of the training.
        epoch: From 0.
    """

    def __init__(
        self, pairs: NDArray[np.int64], *, n_items: int, negatives: int, unknown_share: float, seed: int, epoch: int
    ) -> None:
        self._pairs, self._n_items = pairs, n_items
        self._negatives, self._unknown_share = negatives, unknown_share
        self._order = np.random.default_rng([seed, epoch]).permutation(pairs)
        self._key = np.random.SeedSequence([seed, epoch, 1]).generate_state(2, np.uint64)
        self._blocks = -(-(negatives + 1) // _BLOCK)

    def share(self, first: int, last: int) -> Share:
        """Returns the pairs from place `first` to before `last` of the epoch's order, with their negatives."""
        part = self._order[first:last]
        uniform = self._uniform(first, last)
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


def shares(length: int, batch: int, rank: int, size: int) -> list[tuple[int, int, int]]:
    """Returns (first, last, rows of the whole batch) of one process for each batch of an epoch.

    Args:
        length: Pairs of the epoch.
        batch: Pairs of a whole batch; the last one may be smaller.
        rank: Of the process, from 0.
        size: Processes. A last batch with fewer pairs than processes leaves some of them an empty share.
    """
    result = []
    for start in range(0, length, batch):
        rows = min(batch, length - start)
        result.append((start + rows * rank // size, start + rows * (rank + 1) // size, rows))
    return result
