"""Tables in and out: the dataset as the step needs it, and Parquet files that are the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slipway.contracts.artifacts import ArtifactDraft
from slipway.contracts.errors import ArtifactError, DataError

ROW_GROUP = 122_880
_KEYS = ("user", "item", "timestamp")


def read_interactions(dataset: Path) -> pa.Table:
    """Returns the interactions sorted by user, timestamp, item, then all else; timestamps in UTC without a zone.

    `weight` is that of the data, or 1 for each event.

    Raises:
        ArtifactError: The file is absent or unreadable, or lacks a key.
        DataError: There are no rows, or a key is null.
    """
    file = dataset / "interactions.parquet"
    table = _read(file)
    absent = [name for name in _KEYS if name not in table.column_names]
    if absent:
        raise ArtifactError(f"there is no column {', '.join(absent)}", where=str(file), remedy="Run validate again.")
    if not len(table):
        raise DataError("there are no interactions", where=str(file), remedy="Check source and minimum_rating.")
    if any(table.column(name).null_count for name in _KEYS):
        raise DataError("user, item or timestamp is null", where=str(file), remedy="Run validate again.")
    columns = {
        "user": table.column("user").cast(pa.string()),
        "item": table.column("item").cast(pa.string()),
        # Casting between zones keeps the moment; a time without a zone is UTC already.
        "timestamp": table.column("timestamp").cast(pa.timestamp("us"), safe=False),
        "weight": _weight(table),
    }
    columns |= {name: table.column(name) for name in table.column_names if name not in columns}
    table = pa.table(columns)
    if _sorted(table):
        return table
    order = ["user", "timestamp", "item", *(name for name in columns if name not in _KEYS)]
    return table.take(pc.sort_indices(table, [(name, "ascending") for name in order]))


def _weight(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    if "weight" in table.column_names:
        return pc.fill_null(table.column("weight").cast(pa.float64()), 1.0)
    return pa.array(np.ones(len(table)))


def _sorted(table: pa.Table) -> bool:
    """Says whether rows are in the order of user, timestamp, item, and no two have all three alike."""
    if len(table) < 2:
        return True
    earlier, later = table.slice(0, len(table) - 1), table.slice(1)
    right = pc.less(earlier.column("item"), later.column("item"))
    for name in ("timestamp", "user"):
        left, other = earlier.column(name), later.column(name)
        right = pc.or_(pc.less(left, other), pc.and_(pc.equal(left, other), right))
    return bool(pc.all(right).as_py())


def read_items(dataset: Path) -> pa.Table | None:
    """Returns the items table; None where the project has none. Raises ArtifactError."""
    file = dataset / "items.parquet"
    return _read(file) if file.is_file() else None


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"it cannot be read ({error})", where=str(file), remedy="Run validate again.") from error


def parts_of(events: pa.Table, held_out: NDArray[np.bool_]) -> tuple[pa.Table, pa.Table]:
    """Returns train and test. Test says which rows repeat a pair of train, and which items are not in train."""
    mask = pa.array(held_out)
    train, test = events.filter(pc.invert(mask)), events.filter(mask)
    pairs = pa.table({"user": train.column("user"), "item": train.column("item")}).group_by(["user", "item"])
    seen = pairs.aggregate([]).append_column("repeated", pa.array(np.ones(pairs.aggregate([]).num_rows, dtype=bool)))
    numbered = test.select(["user", "item"]).append_column("row", pa.array(np.arange(len(test))))
    joined = numbered.join(seen, keys=["user", "item"], join_type="left outer").sort_by("row")
    unknown = pc.invert(pc.is_in(test.column("item"), pc.unique(train.column("item"))))
    test = test.append_column("repeated", pc.fill_null(joined.column("repeated"), False))
    return train.combine_chunks(), test.append_column("unknown_item", unknown).combine_chunks()


def write_table(draft: ArtifactDraft, name: str, table: pa.Table, times: Sequence[str] = ()) -> None:
    """Writes a table of the artifact and describes it in the manifest.

    Args:
        draft: The artifact.
        name: File name.
        table: The content, in its final order.
        times: Columns of int64 microseconds that are times.
    """
    for column in times:
        index = table.column_names.index(column)
        table = table.set_column(index, column, table.column(column).cast(pa.timestamp("us")))
    table = table.replace_schema_metadata(None).combine_chunks()
    # Fixed settings and one chunk a column: the same rows give the same bytes.
    pq.write_table(
        table, draft.path / name, compression="zstd", compression_level=1, row_group_size=ROW_GROUP, version="2.6"
    )
    draft.rows[name] = len(table)
    draft.columns[name] = {field.name: str(field.type) for field in table.schema}
