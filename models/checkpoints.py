"""State of a training between epochs, so that a killed run goes on and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.files import canonical_json, sha256_of
from slipway.models.checkpoint_store import CheckpointPlace, from_store, place_of, to_files
from slipway.models.interface import EpochCallback, TrainingData

FORMAT = 1


@dataclass(frozen=True)
class TrainingState:
    """`epoch` epochs are done; `curves` are their reported values; `arrays` is what the next epoch starts from."""

    epoch: int
    curves: list[dict[str, float]]
    arrays: dict[str, NDArray[Any]]


class Checkpoint:
    """The checkpoints of one training.

    Args:
        place: Where they lie; None keeps nothing.
        key: What the training is (see `training_key`); a state with another key is ignored.
        on_epoch: Told of every epoch, those done before a resumption included.
    """

    def __init__(self, place: Path | CheckpointPlace | None, key: str, on_epoch: EpochCallback) -> None:
        self._place = place_of(place)
        self._store = None if self._place is None else self._place.of_training(key)
        self._key = key
        self._on_epoch = on_epoch
        self._curves: list[dict[str, float]] = []

    def resume(self) -> TrainingState | None:
        """Returns the newest sound state of this very training, or None; reports its epochs.

        Raises:
            ServiceError: The object store does not answer, or refuses: to begin anew would throw work away.
            EnvironmentProblemError: The folder cannot be read.
        """
        for epoch in self._store.epochs() if self._store is not None else ():
            assert self._store is not None
            found = from_store(self._store, epoch)
            if found is None:
                continue
            arrays, description = found
            if description.get("format") != FORMAT or description.get("key") != self._key:
                continue
            self._curves = list(description["curves"])
            for number, values in enumerate(self._curves, start=1):
                self._on_epoch(number, values)
            return TrainingState(epoch, list(self._curves), arrays)
        return None

    def save(
        self,
        epoch: int,
        values: dict[str, float],
        arrays: Mapping[str, NDArray[Any]],
        *,
        last: bool = False,
    ) -> None:
        """Keeps the state after an epoch, then reports the epoch.

        Args:
            epoch: Its number, from 1.
            values: What is reported of it.
            arrays: The state; it is not looked at if this epoch is not to be kept.
            last: Whether no epoch follows: then it is kept whatever `every` says.

        Raises:
            EnvironmentProblemError: The disk is full or the folder cannot be written.
            ServiceError: The object store does not answer, or refuses.
        """
        self._curves.append(values)
        if self._store is not None and self._place is not None and self._place.keeps(epoch, last=last):
            description = {"format": FORMAT, "key": self._key, "epoch": epoch, "curves": self._curves}
            self._store.write(epoch, to_files(arrays, description))
            for old in self._store.epochs()[self._place.keep :]:
                self._store.remove(old)
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
