"""Which interactions are held out, and as of which moment each entity is looked at.

Rows are in the order of (user, timestamp, item). "Last" means last in that order: events of a user at one timestamp
are ordered by item, so that a cut through a tie is the same in every run, whatever order the source had.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slipway.contracts.errors import DataError, UsageError
from slipway.contracts.split import SplitSpec

_WHERE = "split"


@dataclass(frozen=True)
class Split:
    """`held_out`: bool [n]. `cut`: the microsecond that divides all users alike; None where each has an own one."""

    held_out: NDArray[np.bool_]
    cut: int | None


def split_interactions(spec: SplitSpec, events: pa.Table, times: NDArray[np.int64]) -> Split:
    """Chooses what is held out.

    Args:
        spec: The method.
        events: The interactions, sorted by user, timestamp, item.
        times: int64 [n], their timestamps in microseconds.

    Raises:
        DataError: Nothing would be left to train on, or nothing held out.
        UsageError: The column of a given split is not in the data.
    """
    if spec.method == "time":
        split = _by_time(spec, times)
    elif spec.method == "given":
        split = Split(_given(spec, events), None)
    else:
        position, size = _places(events.column("user"))
        if spec.method == "leave_last_out":
            kept = size - 1
        else:
            # Of two events and more at least one is held out. The little more than the share mends 0.29 * 100 < 29.
            kept = size - np.maximum(np.floor(size * spec.share + 1e-9).astype(np.int64), 1)
        split = Split((position >= kept) & (size > 1), None)
    held = int(split.held_out.sum())
    if held in (0, len(times)):
        raise DataError(
            "no interaction would be held out" if held == 0 else "no interaction would be left to train on",
            where=_WHERE,
            remedy="Choose another cut, share or method.",
        )
    return split


def _by_time(spec: SplitSpec, times: NDArray[np.int64]) -> Split:
    if spec.cut is not None:
        moment = spec.cut if spec.cut.tzinfo is not None else spec.cut.replace(tzinfo=UTC)
        cut = round(moment.timestamp() * 1_000_000)
    else:
        # The timestamp of the first of the last events; all that happened at that moment goes with it.
        rank = min(int(np.ceil(len(times) * (1 - spec.share) - 1e-9)), len(times) - 1)
        cut = int(np.partition(times, rank)[rank])
    return Split(times >= cut, cut)


def _given(spec: SplitSpec, events: pa.Table) -> NDArray[np.bool_]:
    name = spec.column if spec.column in events.column_names else "split"
    if name not in events.column_names:
        raise UsageError(
            f"the data has no column {spec.column!r} to split by",
            where="split.column",
            remedy=f"Name it in data.interactions.columns: {{split: {spec.column}}}.",
        )
    parts = pc.utf8_lower(pc.utf8_trim_whitespace(events.column(name).cast(pa.string())))
    unknown = [str(part) for part in pc.unique(parts).to_pylist() if part not in ("train", "test")]
    if unknown:
        shown = ", ".join(sorted(unknown)[:5])
        raise DataError(
            f"the column {spec.column!r} says {shown}; it may say train or test",
            where="split.column",
            remedy="Mend the column, or leave those rows out of the source.",
        )
    held: NDArray[np.bool_] = pc.equal(parts, "test").to_numpy()
    return held


def _places(users: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns each row's place within its user's rows, from 0, and the number of those rows; int64 [n] both."""
    first = first_rows(users)
    size = np.diff(np.append(first, len(users)))
    return np.arange(len(users)) - np.repeat(first, size), np.repeat(size, size)


def first_rows(users: pa.ChunkedArray) -> NDArray[np.int64]:
    """Returns the row at which each user's rows begin, int64 [number of users]; rows are sorted by user."""
    codes = users.combine_chunks().dictionary_encode()
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    numbers = codes.indices.to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.diff(numbers, prepend=-1))
