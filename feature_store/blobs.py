"""Packed rows: all features of one entity in one view as one value of the online store.

    offset  bytes
    0       4      magic
    4       4      CRC-32 of everything after it
    8       8      schema hash of the view (six bytes, then zeros)
    16      8      event time of the row, microseconds since 1970 UTC
    24      8      the time as of which it was computed, likewise
    32      8      when it was written, by the clock of the writer, likewise
    40      ...    null bitmap, one bit a feature, the first feature in the lowest bit
    ...            values in the order of the view, little-endian; a string is its length here and its UTF-8 at the end

Values keep their types: a null is not a NaN, and an integer beyond 2^24 is not rounded to a float.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import DataError
from slipway.contracts.features import ViewSchema

MAGIC = b"SLF1"
HEADER_SIZE = 40
_CHECKED_FROM = 8
_DTYPES = {"float32": "<f4", "float64": "<f8", "int64": "<i8", "bool": "u1", "string": "<u4"}

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Column:
    """One feature of n rows: `values` as numpy holds them (strings as objects), `null`: bool [n]."""

    values: NDArray[Any]
    null: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Unpacked rows of one view.

    `values`: float32 [n, m], the numeric features in order, NaN where null or where there is no usable row. `valid`:
    bool [n]. `event_time`, `as_of`, `written_at`: int64 [n] microseconds, 0 where not valid. `corrupted`: how many
    blobs were there but could not be used.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    event_time: NDArray[np.int64]
    as_of: NDArray[np.int64]
    written_at: NDArray[np.int64]
    corrupted: int


class Layout:
    """Where things stand in the blobs of one view."""

    def __init__(self, view: ViewSchema) -> None:
        self.view = view
        self.schema_hash = view.schema_hash
        self.schema = bytes.fromhex(self.schema_hash).ljust(8, b"\0")
        self.bitmap = (len(view.features) + 7) // 8
        fields: list[tuple[Any, ...]] = [
            ("magic", "S4"), ("crc", "<u4"), ("schema", "V8"),
            ("event_time", "<i8"), ("as_of", "<i8"), ("written_at", "<i8"), ("null", "u1", (self.bitmap,)),
        ]  # fmt: skip
        fields += [(f"f{index}", _DTYPES[feature.dtype]) for index, feature in enumerate(view.features)]
        self.dtype = np.dtype(fields)
        self.size = self.dtype.itemsize
        self.strings = [index for index, feature in enumerate(view.features) if feature.dtype == "string"]
        self.numbers = [index for index, feature in enumerate(view.features) if feature.dtype != "string"]
        self.prefix = struct.Struct("<4sI8s")


# By identity: to hash a schema of fifty features takes longer than to read its rows.
_layouts: dict[int, Layout] = {}


def layout_of(view: ViewSchema) -> Layout:
    """Returns the layout of a view's blobs."""
    layout = _layouts.get(id(view))
    if layout is None or layout.view is not view:
        if len(_layouts) >= 256:
            _layouts.clear()
        layout = _layouts[id(view)] = Layout(view)
    return layout


def pack(
    view: ViewSchema,
    columns: Mapping[str, Column],
    *,
    event_time: NDArray[np.int64],
    as_of: NDArray[np.int64],
    written_at: int,
) -> list[bytes]:
    """Packs n rows.

    Args:
        view: The schema.
        columns: Feature name -> column of n values; other names are ignored.
        event_time: int64 [n], microseconds since 1970 UTC.
        as_of: int64 [n], likewise.
        written_at: Microseconds by the writer's clock.

    Raises:
        DataError: A feature of the view has no column.
    """
    layout = layout_of(view)
    count = len(event_time)
    rows = np.zeros(count, dtype=layout.dtype)
    rows["magic"] = MAGIC
    rows["schema"] = np.frombuffer(layout.schema, dtype="V8")[0]
    rows["event_time"], rows["as_of"], rows["written_at"] = event_time, as_of, written_at
    nulls = np.zeros((count, layout.bitmap * 8), dtype=np.uint8)
    texts: list[list[bytes]] = []
    for index, feature in enumerate(view.features):
        column = columns.get(feature.name)
        if column is None:
            raise DataError(f"there is no column {feature.name!r}", where=f"feature view {view.name}")
        nulls[:, index] = column.null
        if feature.dtype == "string":
            encoded = [
                b"" if null else str(text).encode() for text, null in zip(column.values, column.null, strict=True)
            ]
            rows[f"f{index}"] = np.fromiter(map(len, encoded), dtype=np.uint32, count=count)
            texts.append(encoded)
        else:
            rows[f"f{index}"] = np.where(column.null, 0, column.values)
    rows["null"] = np.packbits(nulls, axis=1, bitorder="little")
    buffer, size = rows.tobytes(), layout.size
    bodies = [buffer[start : start + size] for start in range(0, count * size, size)]
    if texts:
        bodies = [body + b"".join(parts) for body, parts in zip(bodies, zip(*texts, strict=True), strict=True)]
    return [_sealed(body) for body in bodies]


def _sealed(body: bytes) -> bytes:
    return body[:4] + zlib.crc32(body[_CHECKED_FROM:]).to_bytes(4, "little") + body[_CHECKED_FROM:]


def intact(blob: bytes, layout: Layout) -> bool:
    """Says whether a blob is whole, unaltered, and of the view that the layout is for."""
    if len(blob) < layout.size or (not layout.strings and len(blob) != layout.size):
        return False
    magic, crc, schema = layout.prefix.unpack_from(blob)
    if magic != MAGIC or schema != layout.schema:
        return False
    return bool(crc == zlib.crc32(memoryview(blob)[_CHECKED_FROM:]))


def unpack(view: ViewSchema, blobs: Sequence[bytes | None]) -> Rows:
    """Unpacks the numeric features of n blobs; None is an absent one. Never raises, whatever the bytes are."""
    layout = layout_of(view)
    count, width = len(blobs), len(layout.numbers)
    good = [row for row, blob in enumerate(blobs) if blob is not None and intact(blob, layout)]
    absent = sum(blob is None for blob in blobs)
    values = np.full((count, width), np.nan, dtype=np.float32)
    times = np.zeros((3, count), dtype=np.int64)
    valid = np.zeros(count, dtype=np.bool_)
    if good:
        records = _records(layout, [blobs[row] for row in good])
        valid[good] = True
        for position, name in enumerate(("event_time", "as_of", "written_at")):
            times[position, good] = records[name]
        found = np.empty((len(good), width), dtype=np.float32)
        with np.errstate(over="ignore"):
            for position, index in enumerate(layout.numbers):
                found[:, position] = records[f"f{index}"]
        null = np.unpackbits(records["null"], axis=1, bitorder="little")[:, layout.numbers].astype(np.bool_)
        found[null] = np.nan
        values[good] = found
    return Rows(values, valid, times[0], times[1], times[2], count - absent - len(good))


def unpack_values(view: ViewSchema, blobs: Sequence[bytes | None]) -> list[dict[str, Value] | None]:
    """Unpacks every feature with its type, row by row; None for an absent or unusable blob."""
    layout = layout_of(view)
    result: list[dict[str, Value] | None] = []
    for blob in blobs:
        result.append(_values(layout, blob) if blob is not None and intact(blob, layout) else None)
    return result


def _values(layout: Layout, blob: bytes) -> dict[str, Value] | None:
    record = _records(layout, [blob])[0]
    null = np.unpackbits(record["null"], bitorder="little")
    values: dict[str, Value] = {}
    offset = layout.size
    for index, feature in enumerate(layout.view.features):
        number = record[f"f{index}"]
        if feature.dtype == "string":
            end = offset + int(number)
            try:
                text = blob[offset:end].decode()
            except UnicodeDecodeError:
                return None
            values[feature.name] = None if null[index] else text
            offset = end
        elif null[index]:
            values[feature.name] = None
        else:
            values[feature.name] = bool(number) if feature.dtype == "bool" else number.item()
    return values


def _records(layout: Layout, blobs: Sequence[bytes | None]) -> NDArray[Any]:
    size = layout.size
    parts = [blob[:size] if layout.strings else blob for blob in blobs if blob is not None]
    return np.frombuffer(b"".join(parts), dtype=layout.dtype)
