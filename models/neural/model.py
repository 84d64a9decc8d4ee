"""Neural collaborative filtering as it is served: the network's arithmetic in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import require_extra
from slipway.contracts.features import ViewSchema
from slipway.models.arithmetic import fixed_matmul, row_dots
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.interface import Catalogue, EpochCallback, Features, Recommender, TrainingData, ignore_epoch
from slipway.models.neural.parameters import NeuralParameters
from slipway.models.standardisation import Standardisation


class NeuralCollaborativeFiltering(Recommender):
    """NeuMF (He et al. 2017), with features of the user as a further input of the first layer.

    The first layer is stored already applied to every user and item, so that scoring an item costs one addition there.
    """

    family: ClassVar[str] = "neural_collaborative_filtering"
    default_epochs: ClassVar[int | None] = NeuralParameters().epochs
    distributed: ClassVar[bool] = True

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        arrays: Mapping[str, NDArray[np.float32]],
        standardisation: Standardisation,
        parameters: Mapping[str, Any],
    ) -> None:
        super().__init__(catalogue, standardisation.views, parameters)
        self.arrays = dict(arrays)
        self.standardisation = standardisation
        layers = sum(name.startswith("weight_") for name in arrays)
        self._layers = [(arrays[f"weight_{layer}"], arrays[f"bias_{layer}"]) for layer in range(layers)]
        n_users, n_items, width = len(self.users), len(self.items), arrays["first_items"].shape[1]
        if (
            not layers
            or arrays["product_users"].shape[0] != n_users + 1
            or arrays["product_items"].shape[0] != n_items
            or arrays["first_users"].shape != (n_users + 1, width)
            or arrays["first_items"].shape[0] != n_items
            or arrays["item_bias"].shape != (n_items,)
            or arrays["first_features"].shape != (len(standardisation), width)
        ):
            raise ValueError("the shapes of the layers do not match")

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
        """Trains in PyTorch, on the GPU where `data.device` allows one; see `Recommender.fit`.

        Started by torchrun, it trains together with the other processes, which must be given the same: each returns
        the model, the first one keeps checkpoints and calls `on_epoch`.
        """
        checked = NeuralParameters.parse(parameters, family=cls.family)
        standardisation = Standardisation.fit(data.views, data.user_features)
        try:
            from slipway.models.neural.training import train
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise require_extra("torch", "neural") from error
        dumped, measure = checked.model_dump(mode="json"), data.measure
        model_of = partial(cls, data.catalogue(), standardisation=standardisation, parameters=dumped)
        arrays = train(
            data,
            checked,
            standardisation,
            family=cls.family,
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            measure=None if measure is None else lambda arrays: measure(model_of(arrays=arrays)),
        )
        return model_of(arrays=arrays)

    def answers(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.bool_]:
        """Known users, and users with features; see `Recommender.answers`."""
        known = user_rows >= 0
        return known | self.standardisation.present(features, len(user_rows)) if self.views else known

    def score(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.float32]:
        """Applies the layers to all items, a user at a time; see `Recommender.score`."""
        products, first = self._users(user_rows, features)
        scores = products.astype(np.float32) @ self.arrays["product_items"].T
        scores += self.arrays["item_bias"]
        buffer = np.empty_like(self.arrays["first_items"])
        for position, start in enumerate(first.astype(np.float32)):
            np.add(self.arrays["first_items"], start, out=buffer)
            hidden = np.maximum(buffer, 0, out=buffer)
            for layer, (weight, bias) in enumerate(self._layers):
                hidden = hidden @ weight
                hidden += bias
                if layer + 1 < len(self._layers):
                    np.maximum(hidden, 0, out=hidden)
            scores[position] += hidden[:, 0]
        return np.asarray(scores)

    def exact_scores(
        self,
        user_rows: NDArray[np.int64],
        features: Features,
        positions: NDArray[np.int64],
        item_rows: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Applies the layers to single pairs in float64; see `Recommender.exact_scores`."""
        products, first = self._users(user_rows, features)
        scores = row_dots(products[positions], self.arrays["product_items"][item_rows].astype(np.float64))
        scores += self.arrays["item_bias"][item_rows]
        hidden = np.maximum(first[positions] + self.arrays["first_items"][item_rows], 0)
        for layer, (weight, bias) in enumerate(self._layers):
            hidden = fixed_matmul(hidden, weight) + bias
            if layer + 1 < len(self._layers):
                np.maximum(hidden, 0, out=hidden)
        return np.asarray(scores + hidden[:, 0])

    def _users(
        self, user_rows: NDArray[np.int64], features: Features
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the factors [n, d] and the share of the first layer [n, h] of users; -1 is the unknown user."""
        rows = np.where(user_rows >= 0, user_rows, len(self.users))
        first = self.arrays["first_users"][rows].astype(np.float64)
        if self.views:
            first += fixed_matmul(self.standardisation.apply(features), self.arrays["first_features"])
        return self.arrays["product_users"][rows].astype(np.float64), first

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns layers and standardisation; see `Recommender.to_arrays`."""
        return {**self.arrays, **self.standardisation.to_arrays()}

    @classmethod
    def from_arrays(
        cls,
        catalogue: Catalogue,
        views: tuple[ViewSchema, ...],
        parameters: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Self:
        """Restores the model; see `Recommender.from_arrays`."""
        standardisation = Standardisation.from_arrays(views, arrays)
        own = {name: value for name, value in arrays.items() if not name.startswith("feature_")}
        return cls(catalogue, arrays=own, standardisation=standardisation, parameters=parameters)
