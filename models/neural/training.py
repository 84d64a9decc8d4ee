"""Training of the network: binary cross-entropy against drawn negatives, seeded, resumable after each epoch.

Several processes train as one: of each batch, a process takes the pairs of its own users, whose embeddings and moments
of Adam it alone holds; nothing of these is ever sent in an epoch. The embeddings of items and the layers are held by
all, and their gradients are added up (data parallel). The loss is the mean over the whole batch, so what is learnt
depends on `batch_size` and not on the number of processes, but for the order in which float32 sums are rounded.

Gradients are dense: Adam with weight decay moves each row at each step, whether the batch has it or not. Sparse ones
would be another optimiser, with another result; and a batch with its negatives touches most items anyway.
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
from slipway.models.checkpoint_store import CheckpointPlace, place_of
from slipway.models.checkpoints import Checkpoint, training_key
from slipway.models.interface import EpochCallback, TrainingData, ignore_epoch
from slipway.models.neural.network import USER_TABLES, Network, UserTables, initial_values
from slipway.models.neural.parameters import NeuralParameters
from slipway.models.neural.processes import Processes, joined
from slipway.models.neural.sampling import EpochSampler, Share
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
    features = features.astype(np.float32)
    with joined(data.device) as processes, _deterministic():
        first = processes.rank == 0
        # Not the number of processes: a training may go on with fewer or more of them.
        settings = {**parameters.model_dump(), "device": processes.device.type}
        key = training_key(data, family, settings, seed)
        processes.same(key)
        place = place_of(checkpoint)
        state = Checkpoint(place if first else None, key, on_epoch if first else ignore_epoch)
        generator = np.random.default_rng(seed)
        initial = initial_values(n_users, n_items, features.shape[1], parameters.factors, parameters.hidden, generator)
        learner = _Learner(initial, n_users, processes, torch.from_numpy(features).to(processes.device), parameters)
        found = state.resume()
        done, arrays = processes.from_first(found.epoch if found else 0, found.arrays if found else {})
        if done:
            learner.restore(arrays)
        for epoch in range(done, parameters.epochs):
            sampler = EpochSampler(
                pairs,
                n_items=n_items,
                negatives=parameters.negatives,
                unknown_share=parameters.unknown_share if features.shape[1] else 0.0,
                seed=seed,
                epoch=epoch,
                rank=processes.rank,
                size=processes.size,
            )
            loss = learner.epoch(sampler, len(pairs))
            if not np.isfinite(loss):
                raise DataError(f"training diverged in epoch {epoch + 1}", remedy="Lower learning_rate.")
            # All processes have a part in what is kept and measured, though only the first keeps it.
            last = epoch + 1 == parameters.epochs
            snapshot = learner.snapshot() if place is not None and place.keeps(epoch + 1, last=last) else {}
            values = {"loss": loss} | (measure(learner.serving_arrays()) if measure is not None else {})
            state.save(epoch + 1, values, snapshot, last=last)
        return learner.serving_arrays()


class _Learner:
    """The network in training.

    Args:
        initial: Weights to begin with.
        n_users: Known users.
        processes: Those that train.
        table: float32 [n_users, n_features], the features of users.
        parameters: Of the training.
    """

    def __init__(
        self,
        initial: Mapping[str, NDArray[np.float32]],
        n_users: int,
        processes: Processes,
        table: torch.Tensor,
        parameters: NeuralParameters,
    ) -> None:
        self._processes, self._table, self._n_users = processes, table, n_users
        product, layer = (initial[name] for name in USER_TABLES)
        self._users = UserTables(product, layer, processes.rank, processes.size).to(processes.device)
        self._network = Network(initial).to(processes.device)
        self._parallel = processes.parallel(self._network)
        self._named = dict([*self._users.named_parameters(), *self._network.named_parameters()])
        self._optimiser = torch.optim.Adam(
            self._named.values(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        self._width = 1 + parameters.negatives
        self._batch = max(1, parameters.batch_size // self._width)

    def epoch(self, sampler: EpochSampler, length: int) -> float:
        """Trains on every pair once and returns the mean loss, the same in each process."""
        total = torch.zeros((), dtype=torch.float64, device=self._table.device)
        for first in range(0, length, self._batch):
            last = min(first + self._batch, length)
            loss = self._loss(sampler.share(first, last))
            self._optimiser.zero_grad(set_to_none=True)
            (loss / ((last - first) * self._width)).backward()
            self._optimiser.step()
            total += loss.detach().double()
        return self._processes.total(total) / (length * self._width)

    def _loss(self, share: Share) -> torch.Tensor:
        device = self._table.device
        users = torch.from_numpy(share.users).to(device)
        hidden = torch.from_numpy(share.hidden).to(device)[:, None]
        parts = (*self._users(users), hidden, self._table[users])
        # A pair and its negatives have the user in common.
        product, layer, hidden, inputs = (part.repeat_interleave(self._width, dim=0) for part in parts)
        logits = self._parallel(product, layer, hidden, torch.from_numpy(share.items.ravel()).to(device), inputs)
        targets = torch.from_numpy(share.labels.ravel()).to(device)
        return binary_cross_entropy_with_logits(logits, targets, reduction="sum")

    def serving_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Returns what a bundle holds; all processes must ask at once."""
        users = {name: self._array(name, self._named[name].detach()) for name in USER_TABLES}
        arrays: dict[str, NDArray[np.float32]] = self._network.serving_arrays(users)
        return arrays

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Returns weights and state of the optimiser, with all users; all processes must ask at once."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, parameter in self._named.items():
            arrays[f"parameter.{name}"] = self._array(name, parameter.detach())
            for key, value in self._optimiser.state[parameter].items():
                arrays[f"{key}.{name}"] = self._array(name, value) if value.dim() else value.numpy()
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to a snapshot, whoever many processes made it."""
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(self._part(name, arrays[f"parameter.{name}"]))
                self._optimiser.state[parameter] = {
                    key: self._part(name, arrays[f"{key}.{name}"]).to(parameter.device)
                    for key in ("exp_avg", "exp_avg_sq")
                }
                # Adam counts its steps on the CPU.
                self._optimiser.state[parameter]["step"] = torch.tensor(float(arrays[f"step.{name}"]))

    def _array(self, name: str, value: torch.Tensor) -> NDArray[Any]:
        whole = self._processes.whole(value, self._n_users) if name in USER_TABLES else value
        array: NDArray[Any] = whole.cpu().numpy()
        return array

    def _part(self, name: str, array: NDArray[Any]) -> torch.Tensor:
        own = array[self._processes.rank :: self._processes.size] if name in USER_TABLES else array
        return torch.from_numpy(np.ascontiguousarray(own))


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
