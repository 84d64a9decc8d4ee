"""Training of the network: binary cross-entropy against drawn negatives, seeded, resumable after each epoch.

Several processes train as one (data parallel): each computes the loss of its share of each batch, the gradients are
averaged, and all take the same step. The loss is the mean over the whole batch, so what is learnt depends on
`batch_size` and not on the number of processes, but for the order in which float32 sums are rounded.

Every process holds the whole network. Adam with weight decay moves each row of the embeddings at each step, whether the
batch has it or not, so gradients are dense: sparse ones would be another optimiser with another result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from slipway.contracts.errors import DataError
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.checkpoints import Checkpoint, training_key
from slipway.models.interface import EpochCallback, TrainingData, ignore_epoch
from slipway.models.neural.network import Network
from slipway.models.neural.parameters import NeuralParameters
from slipway.models.neural.processes import Processes, joined
from slipway.models.neural.sampling import EpochSampler, Share, shares
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
    checkpoint: Path | CheckpointPlace | None,
    measure: Callable[[dict[str, NDArray[np.float32]]], dict[str, float]] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Trains the network and returns its serving arrays; started by torchrun, together with the other processes.

    Args:
        data: The interactions; the same in every process.
        parameters: Of the network and its training.
        standardisation: Of the users' features.
        family: Name of the family, part of a checkpoint's key.
        seed: Of every draw.
        on_epoch: Called after each epoch, in the first process only.
        checkpoint: Where the first process keeps the state.
        measure: Tells how good the serving arrays after an epoch are.

    Raises:
        DataError: There are no interactions, the loss became infinite, or the processes were given different data.
        EnvironmentProblemError: A GPU was asked for and there is none.
    """
    n_users, n_items = len(data.users), len(data.items)
    pairs = np.unique(data.user_rows * max(n_items, 1) + data.item_rows)
    if not len(pairs):
        raise DataError("there are no interactions to learn from", remedy="Check the split and the minimum rating.")
    features = standardisation.apply(data.user_features) if len(standardisation) else np.zeros((n_users, 0))
    features = np.concatenate([features, np.zeros((1, features.shape[1]))]).astype(np.float32)
    with joined(data.device) as processes, _deterministic():
        first = processes.rank == 0
        settings = {**parameters.model_dump(), "device": processes.device.type, "processes": processes.size}
        key = training_key(data, family, settings, seed)
        processes.same(key)
        state = Checkpoint(checkpoint if first else None, key, on_epoch if first else ignore_epoch)
        network = Network(
            n_users,
            n_items,
            features.shape[1],
            parameters.factors,
            parameters.hidden,
            np.random.default_rng(seed),
        ).to(processes.device)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        found = state.resume()
        done, arrays = processes.from_first(found.epoch if found else 0, found.arrays if found else {})
        if done:
            _restore(network, optimiser, arrays)
        epochs = _Epochs(network, optimiser, processes, torch.from_numpy(features).to(processes.device), parameters)
        for epoch in range(done, parameters.epochs):
            sampler = EpochSampler(
                pairs,
                n_items=n_items,
                negatives=parameters.negatives,
                unknown_share=parameters.unknown_share if features.shape[1] else 0.0,
                seed=seed,
                epoch=epoch,
            )
            loss = epochs.run(sampler, len(pairs))
            if not np.isfinite(loss):
                raise DataError(f"training diverged in epoch {epoch + 1}", remedy="Lower learning_rate.")
            if first:
                values = {"loss": loss} | (measure(network.serving_arrays()) if measure is not None else {})
                state.save(
                    epoch + 1, values, lambda: _snapshot(network, optimiser), last=epoch + 1 == parameters.epochs
                )
        serving: dict[str, NDArray[np.float32]] = network.serving_arrays()
    return serving


class _Epochs:
    """What an epoch is trained with. `table`: float32 [n_users + 1, n_features], the last row the unknown user's."""

    def __init__(
        self,
        network: Network,
        optimiser: torch.optim.Optimizer,
        processes: Processes,
        table: torch.Tensor,
        parameters: NeuralParameters,
    ) -> None:
        self._network = processes.parallel(network)
        self._optimiser, self._processes, self._table = optimiser, processes, table
        self._width = 1 + parameters.negatives
        self._batch = max(1, parameters.batch_size // self._width)

    def run(self, sampler: EpochSampler, length: int) -> float:
        """Trains on every pair once and returns the mean loss, the same in each process."""
        processes = self._processes
        total = torch.zeros((), dtype=torch.float64, device=processes.device)
        for first, last, rows in shares(length, self._batch, processes.rank, processes.size):
            loss = self._loss(sampler.share(first, last))
            self._optimiser.zero_grad(set_to_none=True)
            # The mean over all processes of these is the mean over the whole batch.
            (loss * (processes.size / (rows * self._width))).backward()
            self._optimiser.step()
            total += loss.detach().double()
        return processes.total(total) / (length * self._width)

    def _loss(self, share: Share) -> torch.Tensor:
        device = self._table.device
        rows = torch.from_numpy(np.repeat(share.users, self._width)).to(device)
        inputs = self._table[rows]
        if self._table.shape[1]:
            hidden = torch.from_numpy(np.repeat(share.hidden, self._width)).to(device)
            rows = torch.where(hidden, len(self._table) - 1, rows)
        logits = self._network(rows, torch.from_numpy(share.items.ravel()).to(device), inputs)
        targets = torch.from_numpy(share.labels.ravel()).to(device)
        return binary_cross_entropy_with_logits(logits, targets, reduction="sum")


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


def _restore(network: Network, optimiser: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[f"parameter.{name}"]))
            optimiser.state[parameter] = {
                # Adam counts its steps on the CPU.
                key: torch.from_numpy(arrays[f"{key}.{name}"]).to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in arrays
            }
