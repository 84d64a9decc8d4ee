"""Matrix factorisation: the score of an item is the dot product of its factors with those of the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.features import ViewSchema
from slipway.models.arithmetic import fixed_matmul, row_dots
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.interface import Catalogue, EpochCallback, Features, Recommender, TrainingData, ignore_epoch
from slipway.models.matrix_factorization.parameters import MatrixFactorizationParameters
from slipway.models.standardisation import Standardisation

if TYPE_CHECKING:
    from slipway.models.matrix_factorization.training import Factors


class MatrixFactorization(Recommender):
    """iALS (Hu et al. 2008; Rendle et al. 2022), with features RLFM (Agarwal & Chen 2009).

    A user's factors are an offset learnt from history plus, where the model reads features, a linear function of the
    features at hand. A user without history is the mean of all users plus that function.
    """

    family: ClassVar[str] = "matrix_factorization"
    default_epochs: ClassVar[int | None] = MatrixFactorizationParameters().epochs

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        user_offsets: NDArray[np.float32],
        item_factors: NDArray[np.float32],
        feature_weights: NDArray[np.float32],
        standardisation: Standardisation,
        parameters: Mapping[str, Any],
    ) -> None:
        super().__init__(catalogue, standardisation.views, parameters)
        rows, factors = item_factors.shape
        expected = 1 + len(standardisation) if standardisation.views else 0
        if (
            rows != len(self.items)
            or user_offsets.shape != (len(self.users), factors)
            or feature_weights.shape != (expected, factors)
        ):
            raise ValueError("the shapes of the factors do not match")
        self.user_offsets = user_offsets
        self.item_factors = item_factors
        self.feature_weights = feature_weights
        self.standardisation = standardisation
        self._longest_item = float(np.sqrt(np.einsum("nd,nd->n", item_factors, item_factors).max(initial=0)))

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
        """Trains by alternating least squares on all cores; see `Recommender.fit`."""
        from slipway.models.matrix_factorization.training import train

        checked = MatrixFactorizationParameters.parse(parameters, family=cls.family)
        standardisation = Standardisation.fit(data.views, data.user_features)
        catalogue, measure = data.catalogue(), data.measure

        def measured(factors: Factors) -> dict[str, float]:
            assert measure is not None
            return measure(cls._of(catalogue, factors, standardisation, checked))

        factors = train(
            data,
            checked,
            standardisation,
            family=cls.family,
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            measure=None if measure is None else measured,
        )
        return cls._of(catalogue, factors, standardisation, checked)

    @classmethod
    def _of(
        cls,
        catalogue: Catalogue,
        factors: Factors,
        standardisation: Standardisation,
        parameters: MatrixFactorizationParameters,
    ) -> Self:
        return cls(
            catalogue,
            user_offsets=factors.user_offsets,
            item_factors=factors.item_factors,
            feature_weights=factors.feature_weights,
            standardisation=standardisation,
            parameters=parameters.model_dump(),
        )

    def user_factors(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.float64]:
        """Returns the factors of users, float64 [n, d], each computed by itself."""
        factors = self.user_offsets[np.maximum(user_rows, 0)].astype(np.float64)
        unknown = user_rows < 0
        factors[unknown] = 0
        if self.views:
            factors[unknown] = self.feature_weights[0]
            factors += fixed_matmul(self.standardisation.apply(features), self.feature_weights[1:])
        return factors

    def answers(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.bool_]:
        """Known users, and users with features; see `Recommender.answers`."""
        known = user_rows >= 0
        return known | self.standardisation.present(features, len(user_rows)) if self.views else known

    def score(self, user_rows: NDArray[np.int64], features: Features) -> NDArray[np.float32]:
        """One matrix product; see `Recommender.score`."""
        return np.asarray(self.user_factors(user_rows, features).astype(np.float32) @ self.item_factors.T)

    def score_error(
        self, user_rows: NDArray[np.int64], features: Features, scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The rounding of a dot product of d terms, by Cauchy and Schwarz; see `Recommender.score_error`."""
        del scores
        users = self.user_factors(user_rows, features)
        lengths = np.sqrt(np.einsum("nd,nd->n", users, users))
        rounding = (users.shape[1] + 4) * float(np.finfo(np.float32).eps)
        return np.asarray(rounding * self._longest_item * lengths, dtype=np.float32)

    def exact_scores(
        self,
        user_rows: NDArray[np.int64],
        features: Features,
        positions: NDArray[np.int64],
        item_rows: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Dot products in float64; see `Recommender.exact_scores`."""
        users = self.user_factors(user_rows, features)
        return row_dots(users[positions], self.item_factors[item_rows].astype(np.float64))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns factors, feature weights and standardisation; see `Recommender.to_arrays`."""
        return {
            "user_offsets": self.user_offsets,
            "item_factors": self.item_factors,
            "feature_weights": self.feature_weights,
            **self.standardisation.to_arrays(),
        }

    @classmethod
    def from_arrays(
        cls,
        catalogue: Catalogue,
        views: tuple[ViewSchema, ...],
        parameters: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Self:
        """Restores the model; see `Recommender.from_arrays`."""
        return cls(
            catalogue,
            user_offsets=arrays["user_offsets"],
            item_factors=arrays["item_factors"],
            feature_weights=arrays["feature_weights"],
            standardisation=Standardisation.from_arrays(views, arrays),
            parameters=parameters,
        )
