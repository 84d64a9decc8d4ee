"""State of a training between epochs, so that a killed run goes on and ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import BundleError
from slipway.contracts.files import canonical_json, sha256_of
from slipway.models.interface import EpochCallback, TrainingData
from slipway.models.tensors import read_metadata, read_tensors, write_tensors

_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """`epoch` epochs are done; `curves` are their reported values; `arrays` is what the next epoch starts from."""

    epoch: int
    curves: list[dict[str, float]]
    arrays: dict[str, NDArray[Any]]


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: Where it lies; None keeps nothing.
        key: What the training is (see `training_key`); a state with another key is ignored.
        on_epoch: Told of every epoch, those done before a resumption included.
    """

    def __init__(self, folder: Path | None, key: str, on_epoch: EpochCallback) -> None:
        self._file = None if folder is None else folder / _FILE
        self._key = key
        self._on_epoch = on_epoch
        self._curves: list[dict[str, float]] = []

    def resume(self) -> TrainingState | None:
        """Returns the last state of this very training, or None; reports its epochs."""
        if self._file is None or not self._file.is_file():
            return None
        metadata = read_metadata(self._file)
        if metadata.get("key") != self._key:
            return None
        try:
            arrays = {name: np.array(value) for name, value in read_tensors(self._file).items()}
        except BundleError:
            return None
        self._curves = json.loads(metadata["curves"])
        for epoch, values in enumerate(self._curves, start=1):
            self._on_epoch(epoch, values)
        return TrainingState(int(metadata["epoch"]), list(self._curves), arrays)

    def save(self, epoch: int, values: dict[str, float], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keeps the state after an epoch, then reports the epoch."""
        self._curves.append(values)
        if self._file is not None:
            metadata = {"key": self._key, "epoch": str(epoch), "curves": json.dumps(self._curves)}
            write_tensors(self._file, arrays, metadata=metadata)
        self._on_epoch(epoch, values)


def training_key(data: TrainingData, family: str, parameters: Mapping[str, Any], seed: int) -> str:
    """Returns a digest of everything that determines the outcome of a training."""
    digest = sha256(data.users.to_array().tobytes())
    for array in (data.items.to_array(), data.user_rows, data.item_rows, data.weights, data.timestamps):
        digest.update(np.ascontiguousarray(array).tobytes())
    for features in (data.user_features, data.label_features):
        for name in sorted(features):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(features[name]).tobytes())
    description = {
        "family": family,
        "parameters": dict(parameters),
        "seed": seed,
        "data": digest.hexdigest(),
        "views": [view.schema_hash for view in data.views],
    }
    return sha256_of(canonical_json(description))
