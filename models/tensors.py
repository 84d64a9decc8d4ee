"""Named arrays on disk in the safetensors format: written by the safetensors package, read as views on a memory map.

The package's own numpy reader copies; replicas on one machine share the pages of a map.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import BundleError
from slipway.contracts.files import write_atomically

_TYPES = {
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BOOL": np.bool_,
}


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], *, metadata: dict[str, str] | None = None) -> None:
    """Writes arrays of plain numbers atomically; the same arrays give the same bytes.

    Raises:
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """
    from safetensors.numpy import save

    write_atomically(path, save({name: np.ascontiguousarray(value) for name, value in arrays.items()}, metadata))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the arrays of a safetensors file as read-only views on a memory map.

    Raises:
        BundleError: The file is not whole or not in the format.
    """
    try:
        with path.open("rb") as handle:
            view = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        header_size = int.from_bytes(view[:8], "little")
        header = json.loads(bytes(view[8 : 8 + header_size]))
        body = view[8 + header_size :]
        arrays = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            dtype = np.dtype(_TYPES[entry["dtype"]])
            arrays[name] = np.frombuffer(body[start:end], dtype=dtype).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"not a sound safetensors file ({error})", where=str(path), remedy="Train or fetch the model again."
        ) from error
    return arrays


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; empty if it has none or cannot be read."""
    try:
        with path.open("rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        metadata = header.get("__metadata__", {})
    except (OSError, ValueError, AttributeError, OverflowError, MemoryError):
        return {}
    return metadata if isinstance(metadata, dict) else {}
