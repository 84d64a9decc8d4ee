"""Quality on movielens-small: popularity, implicit's ALS, EASE and Slipway's iALS, in one run on one split.

    python benchmarks/quality.py            the settings below, measured on the held-out part
    python benchmarks/quality.py --tune     finds the settings on a validation part of the training data first

Protocol: ratings of 4 and more are positives, the others are dropped; the last 20 % of each user's positives (by time,
then item; at least one, and at least one is left for training) are held out; the whole catalogue is ranked; seen items
are excluded; all held-out items are relevant; users with at least one are evaluated. Every model is tuned over a grid
of about the same size on the last 20 % of the training part, by NDCG@10, and trained on the whole training part for the
final numbers. The same code ranks and measures all four.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipway.contracts.data import InteractionColumns, InteractionsSpec
from slipway.datasets.interactions import load_interactions
from slipway.models import metrics
from slipway.models.bootstrap import PairedBootstrap
from slipway.models.ids import IdIndex
from slipway.models.interface import TrainingData
from slipway.models.matrix_factorization.model import MatrixFactorization
from slipway.models.seen import SeenItems

K = 10
SHARE = 0.2
MINIMUM_RATING = 4.0
SEED = 42

Scores = NDArray[np.float32]
Fit = Callable[["Split", Mapping[str, Any]], Scores]


@dataclass(frozen=True)
class Split:
    """Row numbers of training and held-out interactions."""

    users: IdIndex
    items: IdIndex
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def matrix(self) -> sp.csr_matrix:
        ones = np.ones(len(self.train), dtype=np.float32)
        shape = (len(self.users), len(self.items))
        return sp.csr_matrix((ones, (self.train[:, 0], self.train[:, 1])), shape=shape)

    def inner(self) -> Split:
        """Returns a split of the training part itself, for tuning."""
        train, test = _last_share(self.train)
        return Split(self.users, self.items, train, test)


def load() -> Split:
    spec = InteractionsSpec(
        source="samples://movielens-small",
        columns=InteractionColumns(user="userId", item="movieId", timestamp="timestamp", rating="rating"),
        minimum_rating=MINIMUM_RATING,
    )
    table = load_interactions(spec, Path())
    users = IdIndex.from_strings(table.column("user").to_pylist())
    items = IdIndex.from_strings(table.column("item").to_pylist())
    pairs = np.stack(
        [users.rows(table.column("user").to_pylist()), items.rows(table.column("item").to_pylist())], axis=1
    )
    train, test = _last_share(pairs)  # the table is sorted by user, time, item
    return Split(users, items, train, test)


def _last_share(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits rows that are sorted by user and time."""
    order = np.argsort(pairs[:, 0], kind="stable")
    pairs = pairs[order]
    counts = np.bincount(pairs[:, 0])
    rank = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.where(counts >= 2, np.maximum(1, np.floor(counts * SHARE)), 0).astype(np.int64)
    test = rank >= np.repeat(counts - held, counts)
    return pairs[~test], pairs[test]


def popularity(split: Split, _settings: Mapping[str, Any]) -> Scores:
    counts = np.asarray(split.matrix.sum(axis=0)).ravel().astype(np.float32)
    return np.tile(counts, (len(split.users), 1))


def implicit_als(split: Split, settings: Mapping[str, Any]) -> Scores:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=settings["factors"],
        regularization=settings["regularization"],
        alpha=settings["alpha"],
        iterations=15,
        random_state=SEED,
        num_threads=os.cpu_count() or 1,
    )
    model.fit(split.matrix, show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T, dtype=np.float32)


def ease(split: Split, settings: Mapping[str, Any]) -> Scores:
    """Steck 2019, "Embarrassingly shallow autoencoders for sparse data"."""
    matrix = split.matrix
    gram = np.asarray((matrix.T @ matrix).todense(), dtype=np.float64)
    gram[np.diag_indices_from(gram)] += settings["lambda"]
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(matrix @ weights, dtype=np.float32)


def slipway_ials(split: Split, settings: Mapping[str, Any]) -> Scores:
    data = TrainingData(
        users=split.users,
        items=split.items,
        user_rows=split.train[:, 0],
        item_rows=split.train[:, 1],
        weights=np.ones(len(split.train), dtype=np.float32),
        timestamps=np.arange(len(split.train), dtype=np.int64),
    )
    model = MatrixFactorization.fit(data, settings, seed=SEED)
    return model.score(np.arange(len(split.users)), {})


MODELS: dict[str, tuple[Fit, dict[str, Sequence[Any]], dict[str, Any]]] = {
    "popularity": (popularity, {}, {}),
    "implicit ALS": (
        implicit_als,
        {"factors": (16, 32, 64, 128), "regularization": (0.01, 1.0, 10.0), "alpha": (1.0, 5.0, 20.0)},
        {"factors": 128, "regularization": 10.0, "alpha": 1.0},
    ),
    "EASE": (ease, {"lambda": (50.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 2000.0)}, {"lambda": 300.0}),
    "Slipway iALS": (
        slipway_ials,
        {
            "factors": (128, 256),
            "epochs": (8,),
            "unobserved_weight": (0.3, 1.0, 2.0),
            "regularization": (0.12, 0.3, 1.2),
            "regularization_exponent": (0.25, 0.5),
        },
        {
            "factors": 256,
            "epochs": 8,
            "unobserved_weight": 1.0,
            "regularization": 1.2,
            "regularization_exponent": 0.25,
        },
    ),
}


def judge(split: Split, scores: Scores) -> NDArray[np.float64]:
    """Returns HR@10, NDCG@10, recall@10 by evaluated user, float64 [n, 3]."""
    scores = scores.copy()
    scores[split.train[:, 0], split.train[:, 1]] = -np.inf
    evaluated = np.unique(split.test[:, 0])
    position = np.full(len(split.users), -1)
    position[evaluated] = np.arange(len(evaluated))
    relevant = SeenItems.from_pairs(position[split.test[:, 0]], split.test[:, 1], n_users=len(evaluated))
    lists = np.argsort(-scores[evaluated], axis=1, kind="stable")[:, :K]
    hit, n_relevant = metrics.hits(lists, relevant), np.diff(relevant.offsets)
    return np.stack(
        [metrics.hit_rate(hit, K), metrics.ndcg(hit, n_relevant, K), metrics.recall(hit, n_relevant, K)], axis=1
    )


def tune(split: Split) -> dict[str, dict[str, Any]]:
    """Returns the best settings of each model on a validation part of the training data."""
    inner = split.inner()
    best = {}
    for name, (fit, grid, _) in MODELS.items():
        results = []
        for values in itertools.product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            results.append((float(np.nanmean(judge(inner, fit(inner, settings))[:, 1])), settings))
        results.sort(key=lambda pair: -pair[0])
        best[name] = results[0][1]
        print(f"{name}: {len(results)} settings", file=sys.stderr)
        for value, settings in results[:5]:
            print(f"  {value:.4f} {settings}", file=sys.stderr, flush=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="find the settings first (some minutes)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    split = load()
    tuned = tune(split) if options.tune else {name: settings for name, (_, _, settings) in MODELS.items()}
    tables, seconds = {}, {}
    for name, (fit, _, _) in MODELS.items():
        started = time.perf_counter()
        scores = fit(split, tuned[name])
        seconds[name] = time.perf_counter() - started
        tables[name] = judge(split, scores)
    names = list(tables)
    bootstrap = PairedBootstrap(np.concatenate([tables[name] for name in names], axis=1), samples=2000, seed=0)
    best_peer = max(names[:-1], key=lambda name: float(tables[name][:, 1].mean()))
    rows = {}
    for index, name in enumerate(names):
        change = bootstrap.relative_change(3 * (len(names) - 1) + 1, 3 * index + 1)
        rows[name] = {
            "hr@10": bootstrap.mean(3 * index).value,
            "ndcg@10": bootstrap.mean(3 * index + 1).value,
            "ndcg_interval": [bootstrap.mean(3 * index + 1).low, bootstrap.mean(3 * index + 1).high],
            "recall@10": bootstrap.mean(3 * index + 2).value,
            "ours_over_it": 1 + change.value,
            "ours_over_it_interval": [1 + change.low, 1 + change.high],
            "seconds": seconds[name],
            "settings": tuned[name],
        }
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "versions": {
            package: importlib.metadata.version(package) for package in ("slipway", "numpy", "scipy", "implicit")
        }
        | {"python": platform.python_version()},
        "data": {
            "users": len(split.users),
            "items": len(split.items),
            "training_interactions": len(split.train),
            "held_out_interactions": len(split.test),
            "evaluated_users": len(tables["popularity"]),
        },
        "protocol": "rating >= 4; the last 20 % of each user's positives held out; full-rank; seen items excluded",
        "models": rows,
        "best_peer": best_peer,
    }
    print(json.dumps({key: value for key, value in report.items() if key != "models"}, indent=2))
    print(f"\n{'model':<14}{'HR@10':>8}{'NDCG@10':>9}  {'95 % interval':<18}{'recall@10':>9}{'ours/it':>9}{'fit s':>8}")
    for name, row in rows.items():
        low, high = row["ndcg_interval"]
        print(
            f"{name:<14}{row['hr@10']:>8.4f}{row['ndcg@10']:>9.4f}  {low:.4f} to {high:.4f}  {row['recall@10']:>9.4f}"
            f"{row['ours_over_it']:>9.3f}{row['seconds']:>8.1f}"
        )
    ratio = rows[best_peer]["ours_over_it"]
    low, high = rows[best_peer]["ours_over_it_interval"]
    verdict = "at least as good" if ratio >= 1 else "not as good"
    print(f"\nNDCG@10 of ours over the best other, {best_peer}: {ratio:.3f} ({low:.3f} to {high:.3f}): {verdict}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
