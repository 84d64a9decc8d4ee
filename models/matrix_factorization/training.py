"""Training of matrix factorisation: alternating half-steps, with the prior of user factors learnt from features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import DataError
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.checkpoints import Checkpoint, training_key
from slipway.models.interface import EpochCallback, TrainingData
from slipway.models.matrix_factorization.parameters import MatrixFactorizationParameters
from slipway.models.matrix_factorization.solver import Float, HalfStep, History, single_threaded_blas
from slipway.models.standardisation import Standardisation

_LOSS_SAMPLE = 100_000


@dataclass(frozen=True)
class Factors:
    """`user_offsets`: float32 [n_users, d], u - W f. `feature_weights`: float32 [1 + m, d], mean of u, then W."""

    user_offsets: Float
    item_factors: Float
    feature_weights: Float


def train(
    data: TrainingData,
    parameters: MatrixFactorizationParameters,
    standardisation: Standardisation,
    *,
    family: str,
    seed: int,
    on_epoch: EpochCallback,
    checkpoint: Path | CheckpointPlace | None,
    measure: Callable[[Factors], dict[str, float]] | None = None,
) -> Factors:
    """Factorises the interactions.

    With features the model is regression-based (RLFM, Agarwal & Chen 2009): the prior mean of a user's factors is a
    linear function of the user's standardised features, re-fitted each epoch by ridge regression. The mean of all
    users is no part of the prior, as it would pull everybody towards what is popular; it stands for users without
    history.

    Args:
        data: The interactions.
        parameters: Of the factorisation.
        standardisation: Of the users' features.
        family: Name of the family, part of a checkpoint's key.
        seed: Of the initial factors.
        on_epoch: Called after each epoch.
        checkpoint: Folder for the state after each epoch.
        measure: Tells how good the factors after an epoch are.

    Raises:
        DataError: There are no interactions, or the factors became infinite.
    """
    n_users, n_items = len(data.users), len(data.items)
    users, items, confidence = _distinct_pairs(data, parameters.alpha)
    if not len(users):
        raise DataError("there are no interactions to learn from", remedy="Check the split and the minimum rating.")
    by_user = History.from_pairs(users, items, confidence, n_rows=n_users)
    by_item = History.from_pairs(items, users, confidence, n_rows=n_items)
    user_strength = _regularization(by_user, n_items, parameters)
    user_step = HalfStep(by_user, user_strength, parameters.factors)
    item_step = HalfStep(by_item, _regularization(by_item, n_users, parameters), parameters.factors)
    design = _design(standardisation, data)

    state = Checkpoint(checkpoint, training_key(data, family, parameters.model_dump(), seed), on_epoch)
    resumed = state.resume()
    if resumed is None:
        generator = np.random.default_rng(seed)
        spread = parameters.standard_deviation / np.sqrt(parameters.factors)
        item_factors = generator.normal(0, spread, (n_items, parameters.factors)).astype(np.float32)
        weights = np.zeros((0 if design is None else design.shape[1], parameters.factors), dtype=np.float32)
    else:
        item_factors, weights = resumed.arrays["items"], resumed.arrays["weights"]

    w0 = parameters.unobserved_weight
    loss = _Loss(users, items, confidence, w0, seed)

    def known(weights: Float) -> Float | None:
        return None if design is None else design[:, 1:] @ weights[1:]

    with single_threaded_blas() as pool:
        prior = known(weights)
        user_factors = user_step.solve(item_factors, w0, prior, pool)
        for epoch in range(resumed.epoch if resumed else 0, parameters.epochs):
            if design is not None:
                weights = _regress(design, user_factors, by_user.lengths > 0, parameters.feature_regularization)
            item_factors = item_step.solve(user_factors, w0, None, pool)
            if not np.isfinite(item_factors).all():
                raise DataError(
                    f"training diverged in epoch {epoch + 1}", remedy="Raise regularization or check the weights."
                )
            values = {"loss": loss(user_factors, item_factors)}
            # The users' half-step of the next epoch: after the last one it makes the model.
            prior = known(weights)
            user_factors = user_step.solve(item_factors, w0, prior, pool)
            if measure is not None:
                values |= measure(_factors(user_factors, item_factors, weights, prior))
            arrays = {"items": item_factors, "weights": weights}
            state.save(epoch + 1, values, arrays, last=epoch + 1 == parameters.epochs)
    return _factors(user_factors, item_factors, weights, prior)


def _factors(users: Float, items: Float, weights: Float, prior: Float | None) -> Factors:
    return Factors(users if prior is None else users - prior, items, weights)


def _distinct_pairs(data: TrainingData, alpha: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
    keys, positions = np.unique(data.user_rows * max(len(data.items), 1) + data.item_rows, return_inverse=True)
    weights = np.bincount(positions, weights=data.weights.astype(np.float64), minlength=len(keys))
    if alpha and not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError("weights must be finite and not negative", remedy="Check the weight column, or set alpha to 0.")
    confidence = 1 + alpha * weights if alpha else np.ones(len(keys))
    return keys // max(len(data.items), 1), keys % max(len(data.items), 1), confidence.astype(np.float32)


def _regularization(history: History, others: int, parameters: MatrixFactorizationParameters) -> NDArray[np.float64]:
    frequency = history.lengths + parameters.unobserved_weight * others
    # A row without history and w0 = 0 would have no equation at all.
    scaled = np.maximum(frequency, 1e-3) ** parameters.regularization_exponent
    return np.asarray(parameters.regularization * scaled, dtype=np.float64)


def _design(standardisation: Standardisation, data: TrainingData) -> Float | None:
    if not len(standardisation):
        return None
    values = standardisation.apply(data.user_features)
    return np.concatenate([np.ones((len(values), 1)), values], axis=1).astype(np.float32)


def _regress(design: Float, factors: Float, used: NDArray[np.bool_], ridge: float) -> Float:
    inputs, outputs = design[used].astype(np.float64), factors[used].astype(np.float64)
    penalty = np.full(inputs.shape[1], ridge)
    penalty[0] = 1e-6
    weights = np.linalg.solve(inputs.T @ inputs + np.diag(penalty), inputs.T @ outputs)
    return np.asarray(weights, dtype=np.float32)


class _Loss:
    """The squared error per interaction, its observed part estimated on a fixed sample."""

    def __init__(
        self, users: NDArray[np.int64], items: NDArray[np.int64], confidence: Float, w0: float, seed: int
    ) -> None:
        chosen = np.arange(len(users))
        if len(chosen) > _LOSS_SAMPLE:
            chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), _LOSS_SAMPLE, replace=False))
        self._users, self._items, self._confidence = users[chosen], items[chosen], confidence[chosen]
        self._w0, self._total = w0, len(users)

    def __call__(self, user_factors: Float, item_factors: Float) -> float:
        scores = np.einsum("nd,nd->n", user_factors[self._users], item_factors[self._items])
        observed = float(np.mean(self._confidence * (1 - scores) ** 2, dtype=np.float64))
        everything = float(np.sum((user_factors.T @ user_factors) * (item_factors.T @ item_factors), dtype=np.float64))
        return observed + self._w0 * everything / self._total
