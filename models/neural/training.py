"""Training of the network: binary cross-entropy against drawn negatives, seeded, resumable after each epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slipway.contracts.errors import DataError, EnvironmentProblemError
from slipway.models.checkpoints import Checkpoint, training_key
from slipway.models.interface import EpochCallback, TrainingData
from slipway.models.neural.network import Network
from slipway.models.neural.parameters import NeuralParameters
from slipway.models.standardisation import Standardisation

_THREADS = 1


def train(
    data: TrainingData,
    parameters: NeuralParameters,
    standardisation: Standardisation,
    *,
    family: str,
    seed: int,
    on_epoch: EpochCallback,
    checkpoint: Path | None,
) -> dict[str, NDArray[np.float32]]:
    """Trains the network and returns its serving arrays.

    Raises:
        DataError: There are no interactions, or the loss became infinite.
        EnvironmentProblemError: A GPU was asked for and there is none.
    """
    n_users, n_items = len(data.users), len(data.items)
    pairs = np.unique(data.user_rows * max(n_items, 1) + data.item_rows)
    if not len(pairs):
        raise DataError("there are no interactions to learn from", remedy="Check the split and the minimum rating.")
    features = standardisation.apply(data.user_features) if len(standardisation) else np.zeros((n_users, 0))
    features = np.concatenate([features, np.zeros((1, features.shape[1]))]).astype(np.float32)
    device = _device(data.device)
    state = Checkpoint(
        checkpoint, training_key(data, family, {**parameters.model_dump(), "device": device.type}, seed), on_epoch
    )
    resumed = state.resume()
    with _deterministic():
        network = Network(
            n_users,
            n_items,
            features.shape[1],
            parameters.factors,
            parameters.hidden,
            np.random.default_rng(seed),
        ).to(device)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        if resumed is not None:
            _restore(network, optimiser, resumed.arrays)
        table = torch.from_numpy(features).to(device)
        for epoch in range(resumed.epoch if resumed else 0, parameters.epochs):
            # Draws depend on the epoch alone, so that a resumed training draws what an unbroken one does.
            generator = np.random.default_rng([seed, epoch])
            loss = _epoch(network, optimiser, table, pairs, n_users, n_items, parameters, generator)
            if not np.isfinite(loss):
                raise DataError(f"training diverged in epoch {epoch + 1}", remedy="Lower learning_rate.")
            state.save(epoch + 1, {"loss": loss}, _snapshot(network, optimiser) if checkpoint is not None else {})
        arrays: dict[str, NDArray[np.float32]] = network.serving_arrays()
    return arrays


def _epoch(
    network: Network,
    optimiser: torch.optim.Optimizer,
    table: torch.Tensor,
    pairs: NDArray[np.int64],
    n_users: int,
    n_items: int,
    parameters: NeuralParameters,
    generator: np.random.Generator,
) -> float:
    shuffled = generator.permutation(pairs)
    positives = max(1, parameters.batch_size // (1 + parameters.negatives))
    total, seen = torch.zeros((), dtype=torch.float64, device=table.device), 0
    for start in range(0, len(shuffled), positives):
        part = shuffled[start : start + positives]
        users = np.repeat(part // n_items, 1 + parameters.negatives)
        items = generator.integers(0, n_items, (len(part), 1 + parameters.negatives))
        items[:, 0] = part % n_items
        labels = np.zeros(items.shape, dtype=np.float32)
        labels[:, 0] = 1
        # A drawn item that the user did take is no negative.
        keys = users.reshape(items.shape) * n_items + items
        labels[pairs[np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)] == keys] = 1
        rows = torch.from_numpy(users).to(table.device)
        inputs = table[rows]
        if table.shape[1]:
            unknown = generator.random(len(part)) < parameters.unknown_share
            hidden = torch.from_numpy(np.repeat(unknown, 1 + parameters.negatives)).to(table.device)
            rows = torch.where(hidden, n_users, rows)
        logits = network(rows, torch.from_numpy(items.ravel()).to(table.device), inputs)
        targets = torch.from_numpy(labels.ravel()).to(table.device)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += loss.detach().double() * len(part)
        seen += len(part)
    return float(total) / seen


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblemError(
            "there is no GPU that PyTorch can use", where="model.device", remedy="Set model.device to auto or cpu."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def _deterministic() -> Iterator[None]:
    """A fixed number of threads and deterministic kernels: the order of sums is part of the result."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, mode = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(_THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode)
        torch.set_num_threads(threads)


def _snapshot(network: Network, optimiser: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, parameter in network.named_parameters():
        arrays[f"parameter.{name}"] = parameter.detach().cpu().numpy()
        for key, value in optimiser.state[parameter].items():
            arrays[f"{key}.{name}"] = value.detach().cpu().numpy()
    return arrays


def _restore(network: Network, optimiser: torch.optim.Optimizer, arrays: dict[str, NDArray[Any]]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[f"parameter.{name}"]))
            optimiser.state[parameter] = {
                # Adam counts its steps on the CPU.
                key: torch.from_numpy(arrays[f"{key}.{name}"]).to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in arrays
            }
