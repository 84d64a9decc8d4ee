"""Samples a second and quality of neural training, by one process and by several, on CPU and on GPUs if there are any.

    python benchmarks/training_scaling.py [--processes 1,2] [--batch-sizes 4096,32768] [--interactions N] [--epochs E]

Each line is a whole train step, as `slipway run` has it, on features in a temporary folder. A sample is a user and an
item, drawn negatives included. Samples a second come from the epochs after the first, which pays for warming up;
`step_seconds` has everything, with the start of processes and the writing of the model. On a CPU each process computes
with one thread. `ratio` and `loss_difference` are against the first line of the same device and batch size. Quality is
NDCG@10 on a fifth of the pairs, drawn and held out: the whole catalogue is ranked, seen items are excluded, by the code
that serves.

Two processes gain only where two cores are free: the load of the machine is printed, and so is a warning if somebody
else was computing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from training_speed import draw

from slipway.components.progress import Progress
from slipway.components.train.fitting import read_curves
from slipway.components.train.step import TrainRequest, run
from slipway.contracts.artifacts import write_artifact
from slipway.models import metrics
from slipway.models.families import load_model
from slipway.models.ranking import recommend

K = 10
HELD_OUT = 0.2
NEGATIVES = 8


class Clock(Progress):
    """Remembers when each epoch ended."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []

    def metric(self, name: str, value: float) -> None:  # noqa: ARG002
        if name == "loss":
            self.epochs.append(time.perf_counter())


def write_features(target: Path, users: NDArray[np.int64], items: NDArray[np.int64]) -> None:
    with write_artifact(target, kind="features", slipway_version="benchmark") as draft:
        moments = pa.array(np.arange(len(users)) * 1_000_000, pa.timestamp("us"))
        columns = {"user": [f"u{row}" for row in users], "item": [f"i{row}" for row in items], "timestamp": moments}
        pq.write_table(pa.table(columns), draft.path / "train.parquet")
        (draft.path / "views.json").write_text("[]")


def split(users: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns which pairs are held out: a fifth of each user's, drawn."""
    return np.random.default_rng(1).random(len(users)) < HELD_OUT


def ndcg(model: Path, users: NDArray[np.int64], items: NDArray[np.int64], sample: int = 2000) -> float:
    """Returns NDCG@10, full catalogue, seen items excluded, over `sample` users with something held out."""
    chosen = np.unique(users)
    chosen = np.sort(np.random.default_rng(2).permutation(chosen)[:sample])
    answers = recommend(load_model(model), [f"u{user}" for user in chosen], k=K).items
    relevant: dict[int, set[str]] = {int(user): set() for user in chosen}
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        if user in relevant:
            relevant[user].add(f"i{item}")
    hit = np.zeros((len(chosen), K), dtype=bool)
    for row, (user, answer) in enumerate(zip(chosen.tolist(), answers, strict=True)):
        hit[row, : len(answer)] = [item in relevant[user] for item in answer]
    n_relevant = np.array([len(relevant[int(user)]) for user in chosen])
    return float(np.mean(metrics.ndcg(hit, n_relevant, K)))


def measure(features: Path, folder: Path, device: str, processes: int, batch_size: int, epochs: int) -> dict[str, Any]:
    output = folder / "model"
    shutil.rmtree(output, ignore_errors=True)
    parameters = {"epochs": epochs, "batch_size": batch_size, "negatives": NEGATIVES, "weight_decay": 1e-6}
    request = TrainRequest.model_validate(
        {
            "features": features,
            "output": output,
            "model": {"family": "neural_collaborative_filtering", "parameters": parameters, "device": device},
            "processes": processes,
            "tracked": False,
        }
    )
    clock, started = Clock(), time.perf_counter()
    run(request, clock)
    seconds = time.perf_counter() - started
    pairs = pq.read_metadata(features / "train.parquet").num_rows
    # What the first process reports is read a few times a second: the mean over epochs is what counts.
    epoch = (clock.epochs[-1] - clock.epochs[0]) / (len(clock.epochs) - 1)
    return {
        "device": device,
        "processes": processes,
        "batch_size": batch_size,
        "samples_per_second": round(pairs * (1 + NEGATIVES) / epoch),
        "step_seconds": round(seconds, 1),
        "loss": read_curves(output)[-1]["loss"],
    }


def machine() -> dict[str, Any]:
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("numpy", "torch")},
    }


def gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--batch-sizes", default="4096,32768")
    parser.add_argument("--interactions", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=6_040)
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first is not timed")
    counts = [int(count) for count in options.processes.split(",")]
    print(json.dumps({"machine": machine(), "sizes": vars(options)}, indent=2), flush=True)
    data = draw(options.interactions, options.users, options.items)
    held_out = split(data.user_rows)
    devices = ["cpu"] + (["cuda"] if gpus() else [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_features(folder / "features", data.user_rows[~held_out], data.item_rows[~held_out])
        for device in devices:
            for batch_size in map(int, options.batch_sizes.split(",")):
                first: dict[str, Any] | None = None
                for count in counts:
                    if device == "cuda" and count > len(gpus()):
                        continue
                    row = measure(folder / "features", folder, device, count, batch_size, options.epochs)
                    row["ndcg@10"] = round(
                        ndcg(folder / "model", data.user_rows[held_out], data.item_rows[held_out]), 4
                    )
                    first = first or row
                    row["ratio"] = round(row["samples_per_second"] / first["samples_per_second"], 2)
                    row["loss_difference"] = abs(row["loss"] - first["loss"])
                    print(json.dumps(row), flush=True)
    load = os.getloadavg()[0]
    busy = max(counts) + 0.5
    print(f"load average at the end {load:.1f} on {len(os.sched_getaffinity(0))} cores")
    if load > busy:
        print("others were computing on this machine: the ratios say little; run it again when it is quiet")


if __name__ == "__main__":
    main()
