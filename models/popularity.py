"""Popularity: every user gets the items that most users interacted with. The baseline to beat and the fallback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.features import ViewSchema
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.interface import Catalogue, EpochCallback, Features, Recommender, TrainingData, ignore_epoch
from slipway.models.parameters import Parameters


class Popularity(Recommender):
    """Scores an item by the share of users who interacted with it."""

    family: ClassVar[str] = "popularity"
    default_epochs: ClassVar[int | None] = 1

    @classmethod
    def fit(
        cls,
        data: TrainingData,
        parameters: Mapping[str, Any],
        *,
        seed: int = 0,
        on_epoch: EpochCallback = ignore_epoch,
        checkpoint: Path | CheckpointPlace | None = None,
    ) -> Self:
        """Counts users by item; see `Recommender.fit`."""
        del seed, checkpoint
        Parameters.parse(parameters, family=cls.family)
        model = cls(data.catalogue())
        on_epoch(1, {"interactions": float(len(data.user_rows))})
        return model

    def score(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.float32]:
        """Returns the same scores for all users; see `Recommender.score`."""
        del features
        scores = np.empty((len(user_rows), len(self.items)), dtype=np.float32)
        scores[:] = self.popularity
        return scores

    def exact_scores(
        self,
        user_rows: NDArray[np.int64],
        features: Features,
        positions: NDArray[np.int64],
        item_rows: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Returns the popularity of each item; see `Recommender.exact_scores`."""
        del user_rows, features, positions
        return np.asarray(self.popularity[item_rows], dtype=np.float64)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns nothing of its own: popularity is part of every bundle."""
        return {}

    @classmethod
    def from_arrays(
        cls,
        catalogue: Catalogue,
        views: tuple[ViewSchema, ...],
        parameters: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Self:
        """Restores the model; see `Recommender.from_arrays`."""
        del views, arrays
        return cls(catalogue, parameters=parameters)
