"""The interface that every recommender family implements, and what all families share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.features import ViewSchema
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.ids import IdIndex
from slipway.models.seen import SeenItems

Features = Mapping[str, NDArray[np.float32]]
"""View name -> float32 [n, m]: the numeric features of the view in order; NaN where a value is null or missing."""

EpochCallback = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number, from 1, and values to plot."""


def ignore_epoch(_epoch: int, _values: dict[str, float]) -> None:
    """Does nothing; the default epoch callback."""


Measure = Callable[["Recommender"], dict[str, float]]
"""Called after each epoch with the model as it then is; what it returns is reported with the epoch's own values."""


@dataclass(frozen=True)
class TrainingData:
    """Interactions as row numbers, with the features of users.

    `user_rows`, `item_rows`: int64 [n]. `weights`: float32 [n]. `timestamps`: int64 [n], microseconds since 1970 UTC.
    `user_features`: view -> float32 [n_users, m], the latest known values, by user row. `label_features`:
    view -> float32 [n, m], the values as of each interaction. `device`: auto, cpu or cuda, for families that can.
    `measure`: how good a model is that is not yet done, for families that can tell; it never changes what is learnt.
    """

    users: IdIndex
    items: IdIndex
    user_rows: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    timestamps: NDArray[np.int64]
    user_features: Features = field(default_factory=dict)
    label_features: Features = field(default_factory=dict)
    views: tuple[ViewSchema, ...] = ()
    device: str = "auto"
    measure: Measure | None = None

    def catalogue(self) -> Catalogue:
        """Returns ids, seen items and popularity, as every model carries them."""
        seen = SeenItems.from_pairs(self.user_rows, self.item_rows, n_users=len(self.users))
        users_of_item = np.bincount(seen.item_rows, minlength=len(self.items))
        return Catalogue(self.users, self.items, seen, users_of_item / max(len(self.users), 1), len(self.user_rows))


@dataclass(frozen=True)
class Catalogue:
    """What all families share: ids, what each user has seen, and the fallback ranking.

    `popularity`: float64 [n_items], the share of users who interacted with the item. `interactions`: their number.
    """

    users: IdIndex
    items: IdIndex
    seen: SeenItems
    popularity: NDArray[np.float64]
    interactions: int = 0


class Recommender(ABC):
    """A trained model that scores every item for a user.

    Subclasses implement `fit`, `score`, `exact_scores`, `to_arrays` and `from_arrays`, and keep no other state than
    what `to_arrays` returns. Everything but `fit` must run on numpy alone. With `distributed` several processes may fit
    one model at once: torchrun starts them, and each calls `fit` with the same arguments.
    """

    family: ClassVar[str]
    default_epochs: ClassVar[int | None] = None
    distributed: ClassVar[bool] = False

    def __init__(
        self, catalogue: Catalogue, views: tuple[ViewSchema, ...] = (), parameters: Mapping[str, Any] | None = None
    ) -> None:
        self.catalogue = catalogue
        self.users = catalogue.users
        self.items = catalogue.items
        self.seen = catalogue.seen
        self.popularity = catalogue.popularity
        self.views = views
        self.parameters = dict(parameters or {})

    @classmethod
    @abstractmethod
    def fit(
        cls,
        data: TrainingData,
        parameters: Mapping[str, Any],
        *,
        seed: int = 0,
        on_epoch: EpochCallback = ignore_epoch,
        checkpoint: Path | CheckpointPlace | None = None,
    ) -> Self:
        """Trains a model.

        Args:
            data: The interactions.
            parameters: The family's parameters; what is left out takes its default.
            seed: Of every random draw; same data, parameters and seed give the same bytes on the same machine.
            on_epoch: Called after each epoch.
            checkpoint: Where the state after an epoch goes: a folder, or a place; `models.checkpoints.Checkpoint` takes
                both. A later call with the same arguments goes on from there and gives the bytes that an unbroken run
                gives; another's state is ignored.

        Raises:
            UsageError: A parameter is unknown or out of range.
            DataError: The data cannot be learnt from.
        """

    @abstractmethod
    def score(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.float32]:
        """Scores all items, fast.

        Args:
            user_rows: int64 [n]; -1 stands for an unknown user that `answers` accepted.
            features: The model's views, aligned with `user_rows`.

        Returns:
            A fresh float32 [n, n_items]; the caller may write to it.
        """

    @abstractmethod
    def exact_scores(
        self,
        user_rows: NDArray[np.int64],
        features: Features,
        positions: NDArray[np.int64],
        item_rows: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Scores single pairs in float64, each by operations whose order does not depend on the other pairs.

        Args:
            user_rows: int64 [n].
            features: Aligned with `user_rows`.
            positions: int64 [p], the index into `user_rows` of each pair.
            item_rows: int64 [p], the item of each pair.

        Returns:
            float64 [p].
        """

    def score_error(
        self, user_rows: NDArray[np.int64], features: Features, scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Bounds how far `score` may be from `exact_scores`, for each user: float32 [n].

        The ranking scores again whatever this bound leaves in doubt. Here it is a ten-thousandth of the user's largest
        score; override it where scores can be small sums of large terms.
        """
        del user_rows, features
        if not scores.shape[1]:
            return np.zeros(len(scores), dtype=np.float32)
        return np.asarray(1e-4 * np.maximum(scores.max(axis=1), -scores.min(axis=1)), dtype=np.float32)

    def answers(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.bool_]:
        """Says for which users the model has an answer of its own; the others get the fallback. Shape [n]."""
        del features
        return user_rows >= 0

    @abstractmethod
    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learnt, as named arrays of plain numbers."""

    @classmethod
    @abstractmethod
    def from_arrays(
        cls,
        catalogue: Catalogue,
        views: tuple[ViewSchema, ...],
        parameters: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Self:
        """Restores a model from `to_arrays`. The arrays may be read-only views on a memory map."""
