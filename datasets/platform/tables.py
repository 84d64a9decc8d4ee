"""Writes generated tables as Parquet parts whose bytes depend on their rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROW_GROUP = 131_072


def write_part(path: Path, columns: Mapping[str, Any]) -> int:
    """Writes one part and returns its number of rows.

    Args:
        path: The file; its folder is made.
        columns: Column name -> arrow or numpy array, all of one length.
    """
    table = pa.table(dict(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", compression_level=1, row_group_size=ROW_GROUP)
    return int(table.num_rows)


def identifiers(prefix: str, count: int) -> pa.Array:
    """Returns the ids of `count` entities: equal length, so that their order is that of their rows."""
    width = max(len(str(count - 1)), 6)
    numbers = pa.array(np.arange(count)).cast(pa.string())
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers, width, "0"), "")


def names(choices: Sequence[str], index: NDArray[np.integer]) -> pa.Array:
    """Returns text that repeats few values: `choices[index]`."""
    return pa.array(list(choices)).take(pa.array(index))


def times(microseconds: NDArray[np.int64]) -> pa.Array:
    """Returns timestamps in UTC, without a zone, from microseconds since 1970."""
    return pa.array(microseconds.astype("datetime64[us]"))


def dates(days: NDArray[np.integer]) -> pa.Array:
    """Returns dates from days since 1970."""
    return pa.array(days.astype("datetime64[D]"))
