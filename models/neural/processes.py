"""The processes that train together: who is one of how many, and what they say to each other.

torchrun starts the processes and names each by RANK and WORLD_SIZE (torch.distributed.elastic). The gradients of what
all of them hold are added up by DistributedDataParallel, over gloo on CPUs and NCCL on GPUs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from slipway.contracts.errors import DataError, EnvironmentProblemError

# How long a process waits for the others at one exchange, and how long all have to appear.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """This process among `size`, computing on `device`. One alone exchanges nothing."""

    rank: int
    size: int
    device: torch.device

    def parallel(self, network: nn.Module) -> nn.Module:
        """Returns the network to call in training: one whose gradients are the sum over all processes."""
        if self.size == 1:
            return network
        parallel = nn.parallel.DistributedDataParallel(
            network,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        parallel.register_comm_hook(None, _add_up)
        return parallel

    def whole(self, shard: torch.Tensor, rows: int) -> torch.Tensor:
        """Returns a table of which each process has every `size`-th row, the first from its own rank on.

        Args:
            shard: [rows of this process, ...].
            rows: Of the whole table.
        """
        if self.size == 1:
            return shard
        # What is exchanged has to be of one length.
        longest = -(-rows // self.size)
        own = shard.new_zeros((longest, *shard.shape[1:]))
        own[: len(shard)] = shard
        shards = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(shards, own)
        return torch.stack(shards, dim=1).flatten(0, 1)[:rows]

    def total(self, value: torch.Tensor) -> float:
        """Returns the sum of a scalar over all processes, the same for each."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value)

    def same(self, digest: str) -> None:
        """Checks that all processes train the same.

        Raises:
            DataError: A process has other data or settings than the first.
        """
        if self.size == 1:
            return
        own = torch.tensor(list(digest.encode()), dtype=torch.uint8, device=self.device)
        first = own.clone()
        dist.broadcast(first, 0)
        if not torch.equal(own, first):
            raise DataError(
                f"process {self.rank} of {self.size} has other data or settings than process 0",
                remedy="Give all the same features, the same settings and the same version of Slipway.",
            )

    def from_first(self, epoch: int, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, dict[str, NDArray[Any]]]:
        """Returns the number and the arrays that the first process has; what the others pass is ignored."""
        if self.size == 1:
            return epoch, dict(arrays)
        outline = [(name, value.shape, value.dtype.str) for name, value in arrays.items()]
        epoch, outline = self._agreed([epoch, outline])
        received = {}
        for name, shape, dtype in outline:
            value = arrays[name] if self.rank == 0 else np.empty(shape, dtype)
            tensor = torch.from_numpy(np.array(value, copy=True)).to(self.device)
            if tensor.numel():
                dist.broadcast(tensor, 0)
            received[name] = tensor.cpu().numpy()
        return epoch, received

    def _agreed(self, content: list[Any]) -> list[Any]:
        # As JSON: the object collectives of torch.distributed pickle.
        text = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(text)], device=self.device)
        dist.broadcast(length, 0)
        if self.rank:
            text = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(text, 0)
        agreed: list[Any] = json.loads(bytes(text.cpu().tolist()))
        return agreed


def _add_up(_state, bucket):  # type: ignore[no-untyped-def]  # PyTorch compares annotations with its own types
    # The default divides by the number of processes; the loss is divided by the whole batch already.
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes among which torchrun started this one; alone, where it did not.

    Args:
        device: auto, cpu or cuda.

    Raises:
        EnvironmentProblemError: A GPU was asked for and there is none, or there are fewer than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else 0)
    if size == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    found = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cuda" and not found:
        raise EnvironmentProblemError(
            "there is no GPU that PyTorch can use", where="model.device", remedy="Set model.device to auto or cpu."
        )
    if not found:
        return torch.device("cpu")
    if local_rank >= found:
        raise EnvironmentProblemError(
            f"there are more processes than GPUs on this machine ({found})",
            where="training.processes",
            remedy=f"Set training.processes to {found}, or model.device to cpu.",
        )
    return torch.device("cuda", local_rank)
