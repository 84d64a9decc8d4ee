"""Half an epoch of implicit ALS: the exact solution for every row, given the factors of the other side.

For a row with history S, confidences c and prior mean p, its factors solve

    (w0 V'V + sum_S c v v' + r I) u = sum_S c v + r p        (Hu et al. 2008; Rendle et al. 2022)

In the eigenbasis of V'V the first and third terms are a diagonal A. With E = C^1/2 V_S A^-1/2 the system becomes
(I + E'E) x = A^-1/2 b. Where the history is shorter than the number of factors, Woodbury's identity turns it into one
of the size of the history, I + E E', which is what makes large models cheap on sparse data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

_BLOCK_VALUES = 1 << 20
_GATHERED_ROWS = 1 << 15


@dataclass(frozen=True)
class History:
    """One side's interactions as compressed sparse rows.

    `offsets`: int64 [rows + 1]; `others`: int64 [nnz], rows of the other side; `confidence`: float32 [nnz].
    """

    offsets: NDArray[np.int64]
    others: NDArray[np.int64]
    confidence: Float

    @classmethod
    def from_pairs(
        cls, rows: NDArray[np.int64], others: NDArray[np.int64], confidence: Float, *, n_rows: int
    ) -> History:
        """Groups distinct pairs by row, ordered by the other side."""
        order = np.lexsort((others, rows))
        counts = np.bincount(rows, minlength=n_rows)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(offsets, others[order], confidence[order])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of interactions of each row; int64 [rows]."""
        return np.diff(self.offsets)


@contextmanager
def single_threaded_blas() -> Iterator[ThreadPoolExecutor]:
    """Gives a pool with a thread a core, with BLAS kept to one thread in each.

    Every row is solved within one thread, so the result does not depend on the number of cores.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        yield pool


class HalfStep:
    """Solves one side; keeps the plan of equally long blocks from epoch to epoch.

    Args:
        history: Of the side to solve.
        regularization: float64 [rows], r of each row.
        factors: d.
    """

    def __init__(self, history: History, regularization: NDArray[np.float64], factors: int) -> None:
        self._history = history
        self._regularization = regularization.astype(np.float32)
        lengths = history.lengths
        # Longest first, so that the last blocks to finish are short ones.
        order = np.argsort(-lengths, kind="stable")
        self._blocks: list[NDArray[np.int64]] = []
        start = 0
        while start < len(order):
            length = max(int(lengths[order[start]]), 1)
            size = max(1, _BLOCK_VALUES // (max(min(length, factors), 8) * factors))
            self._blocks.append(order[start : start + size])
            start += size

    def solve(self, others: Float, unobserved_weight: float, prior: Float | None, pool: ThreadPoolExecutor) -> Float:
        """Returns the factors of all rows.

        Args:
            others: float32 [n_others, d], the factors of the other side.
            unobserved_weight: w0.
            prior: float32 [rows, d], the mean towards which rows are pulled; None is zero.
            pool: From `single_threaded_blas`.
        """
        gram = unobserved_weight * (others.T @ others).astype(np.float64)
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        basis = vectors.astype(np.float32)
        spectrum = np.maximum(values, 0).astype(np.float32)
        rotated = others @ basis
        pulled = None if prior is None else prior @ basis
        result = np.empty((len(self._regularization), others.shape[1]), dtype=np.float32)

        def work(block: NDArray[np.int64]) -> None:
            result[block] = self._solve_block(block, rotated, spectrum, pulled)

        for _ in pool.map(work, self._blocks):
            pass
        return np.asarray(result @ basis.T)

    def _solve_block(self, block: NDArray[np.int64], rotated: Float, spectrum: Float, pulled: Float | None) -> Float:
        lengths = self._history.lengths[block]
        longest, factors = int(lengths.max(initial=0)), rotated.shape[1]
        strength = self._regularization[block, None]
        inverse_root = 1 / np.sqrt(spectrum + strength)
        pull = np.zeros_like(inverse_root) if pulled is None else strength * pulled[block]
        if longest == 0:
            return np.asarray(inverse_root * inverse_root * pull)
        if longest <= factors:
            return self._solve_short(block, lengths, rotated, inverse_root, pull)
        return self._solve_long(block, rotated, inverse_root, pull)

    def _solve_short(
        self, block: NDArray[np.int64], lengths: NDArray[np.int64], rotated: Float, inverse_root: Float, pull: Float
    ) -> Float:
        longest = int(lengths.max())
        within = np.arange(longest)
        positions = np.minimum(self._history.offsets[block, None] + within, len(self._history.others) - 1)
        # Rows shorter than the longest are padded with pairs of confidence zero, which change nothing.
        confidence = np.where(within < lengths[:, None], self._history.confidence[positions], np.float32(0))
        root = np.sqrt(confidence)
        gathered = rotated[self._history.others[positions]]
        right = np.matmul(confidence[:, None, :], gathered)[:, 0] + pull
        gathered *= root[:, :, None]
        gathered *= inverse_root[:, None, :]
        system = np.matmul(gathered, gathered.transpose(0, 2, 1))
        system[:, within, within] += 1
        scaled = inverse_root * right
        reduced = np.linalg.solve(system, np.matmul(gathered, scaled[:, :, None]))
        solution = scaled - np.matmul(gathered.transpose(0, 2, 1), reduced)[:, :, 0]
        return np.asarray(inverse_root * solution)

    def _solve_long(self, block: NDArray[np.int64], rotated: Float, inverse_root: Float, pull: Float) -> Float:
        factors = rotated.shape[1]
        system = np.zeros((len(block), factors, factors), dtype=np.float32)
        right = pull.copy()
        for position, row in enumerate(block):
            begin, end = int(self._history.offsets[row]), int(self._history.offsets[row + 1])
            for start in range(begin, end, _GATHERED_ROWS):
                part = slice(start, min(start + _GATHERED_ROWS, end))
                confidence = self._history.confidence[part]
                gathered = rotated[self._history.others[part]]
                right[position] += confidence @ gathered
                gathered *= np.sqrt(confidence)[:, None]
                gathered *= inverse_root[position]
                system[position] += gathered.T @ gathered
        diagonal = np.arange(factors)
        system[:, diagonal, diagonal] += 1
        solution = np.linalg.solve(system, (inverse_root * right)[:, :, None])[:, :, 0]
        return np.asarray(inverse_root * solution)
