"""Seconds of matrix factorisation on 1 million interactions, beside `implicit`'s ALS in the same run.

    python benchmarks/training_speed.py [--interactions N] [--users N] [--items N] [--factors D] [--epochs E]

Interactions are drawn from planted tastes with popularity as uneven as in MovieLens 1M. Both train with the same number
of factors and epochs on all cores: ours solves every row exactly and ends with a step for the users, implicit takes
three steps of conjugate gradients a row. So seconds alone do not compare the models; the loss that both minimise, up to
the weighting of the penalty, is printed beside them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.models.ids import IdIndex
from slipway.models.interface import TrainingData
from slipway.models.matrix_factorization.model import MatrixFactorization

BUDGET_SECONDS = 60.0
UNOBSERVED_WEIGHT = 0.1


def draw(interactions: int, users: int, items: int, seed: int = 0) -> TrainingData:
    """Returns distinct pairs; popularity and activity fall off as powers of the rank, tastes are eight groups."""
    generator = np.random.default_rng(seed)
    activity = 1 / (np.arange(users) + 50.0) ** 0.6
    appeal = 1 / (np.arange(items) + 20.0) ** 0.8
    keys = np.zeros(0, dtype=np.int64)
    while len(keys) < interactions:
        drawn_users = generator.choice(users, interactions, p=activity / activity.sum())
        drawn_items = generator.choice(items, interactions, p=appeal / appeal.sum())
        liked = (drawn_users % 8 == drawn_items % 8) | (generator.random(interactions) < 0.3)
        keys = np.unique(np.concatenate([keys, (drawn_users * items + drawn_items)[liked]]))
    keys = np.sort(generator.permutation(keys)[:interactions])
    return TrainingData(
        IdIndex.from_strings(f"u{row:08d}" for row in range(users)),
        IdIndex.from_strings(f"i{row:08d}" for row in range(items)),
        keys // items,
        keys % items,
        np.ones(interactions, dtype=np.float32),
        np.arange(interactions, dtype=np.int64),
    )


def loss(users: NDArray[np.float32], items: NDArray[np.float32], data: TrainingData) -> float:
    """Returns the weighted squared error per interaction, without penalties."""
    observed = 0.0
    for start in range(0, len(data.user_rows), 50_000):
        part = slice(start, start + 50_000)
        scores = np.einsum("nd,nd->n", users[data.user_rows[part]], items[data.item_rows[part]])
        observed += float(((1 - scores) ** 2).sum(dtype=np.float64))
    everything = float(np.sum((users.T @ users) * (items.T @ items), dtype=np.float64))
    return (observed + UNOBSERVED_WEIGHT * everything) / len(data.user_rows)


def ours(data: TrainingData, factors: int, epochs: int) -> dict[str, Any]:
    started, processor = time.perf_counter(), time.process_time()
    model = MatrixFactorization.fit(
        data, {"factors": factors, "epochs": epochs, "unobserved_weight": UNOBSERVED_WEIGHT}, seed=1
    )
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "loss": round(loss(model.user_offsets, model.item_factors, data), 4),
    }


def implicit_als(data: TrainingData, factors: int, epochs: int) -> dict[str, Any]:
    import scipy.sparse as sp
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    shape = (len(data.users), len(data.items))
    # implicit weighs an unobserved pair by 1 and an observed one by its value: the same ratio.
    values = np.full(len(data.user_rows), (1 + UNOBSERVED_WEIGHT) / UNOBSERVED_WEIGHT, dtype=np.float32)
    matrix = sp.csr_matrix((values, (data.user_rows, data.item_rows)), shape=shape)
    with threadpool_limits(limits=1, user_api="blas"):
        started, processor = time.perf_counter(), time.process_time()
        model = AlternatingLeastSquares(
            factors=factors,
            iterations=epochs,
            regularization=0.1,
            alpha=1.0,
            random_state=1,
            num_threads=len(os.sched_getaffinity(0)),
        )
        model.fit(matrix, show_progress=False)
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "loss": round(loss(np.asarray(model.user_factors), np.asarray(model.item_factors), data), 4),
    }


def machine() -> dict[str, Any]:
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("numpy", "implicit")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=6_040)
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--factors", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    print(json.dumps({"machine": machine(), "sizes": vars(options)}, indent=2), flush=True)
    data = draw(options.interactions, options.users, options.items)
    own = ours(data, options.factors, options.epochs)
    print(json.dumps({"slipway": own}), flush=True)
    other = implicit_als(data, options.factors, options.epochs)
    print(json.dumps({"implicit": other}), flush=True)
    ratio = own["seconds"] / other["seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"matrix factorisation {own['seconds']} s, implicit's ALS {other['seconds']} s, ratio {ratio:.2f}; "
        f"budget {BUDGET_SECONDS:.0f} s {'met' if own['seconds'] < BUDGET_SECONDS else 'MISSED'}; peak {peak:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
