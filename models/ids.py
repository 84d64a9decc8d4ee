"""Ids of users and items as one sorted byte array: small, memory-mappable, looked up by binary search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import DataError

MAXIMUM_ID_BYTES = 1024
_ENCODING = ("utf-8", "surrogatepass")


class IdIndex:
    """Maps ids to row numbers and back. Row order is the order of the UTF-8 bytes.

    Args:
        ids: Sorted, distinct numpy byte strings ('S'); may be a view on a memory map.
    """

    def __init__(self, ids: NDArray[np.bytes_]) -> None:
        self._ids = ids
        self._width = int(ids.dtype.itemsize)

    @classmethod
    def from_strings(cls, ids: Iterable[str]) -> IdIndex:
        """Builds an index of the distinct ids.

        Raises:
            DataError: An id is empty, holds a zero character, or is longer than 1,024 bytes.
        """
        encoded = {identifier.encode(*_ENCODING) for identifier in ids}
        for identifier in encoded:
            if not identifier or b"\0" in identifier or len(identifier) > MAXIMUM_ID_BYTES:
                raise DataError(
                    f"{identifier[:40]!r} cannot be an id: ids have 1 to {MAXIMUM_ID_BYTES:,} bytes and no zero bytes",
                    remedy="Clean the id column.",
                )
        width = max(map(len, encoded), default=1)
        return cls(np.array(sorted(encoded), dtype=f"S{width}"))

    @classmethod
    def from_array(cls, array: NDArray[np.uint8]) -> IdIndex:
        """Restores an index from `to_array`, without a copy."""
        rows, width = array.shape
        return cls(array.reshape(-1).view(f"S{width}") if rows else np.zeros(0, dtype=f"S{max(width, 1)}"))

    def to_array(self) -> NDArray[np.uint8]:
        """Returns the ids as uint8 [n, width], zero-padded."""
        return np.ascontiguousarray(self._ids).view(np.uint8).reshape(len(self), self._width)

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Returns the row of each id, -1 for those that are not in the index; shape [len(ids)]."""
        width = self._width
        encoded = [identifier.encode(*_ENCODING) for identifier in ids]
        # Longer ids would be cut, and trailing zero bytes ignored, by the fixed-width type; neither can be in here.
        sound = [value if len(value) <= width and b"\0" not in value else b"" for value in encoded]
        wanted = np.array(sound, dtype=self._ids.dtype)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, dtype=np.int64)
        positions = np.searchsorted(self._ids, wanted)
        found = self._ids[np.minimum(positions, len(self) - 1)] == wanted
        return np.where(found & (wanted != b""), positions, -1).astype(np.int64)

    def ids(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        """Returns the id of each row; rows must be in the index."""
        values: list[bytes] = self._ids[np.asarray(rows, dtype=np.int64)].tolist()
        return [value.decode(*_ENCODING) for value in values]
