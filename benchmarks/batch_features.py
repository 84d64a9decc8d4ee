"""Batch features: the whole featurize step, point-in-time for every training event, on generated interactions.

    python benchmarks/batch_features.py [--events 1000000] [--users 20000] [--items 10000]

One thread gives the same bytes every time; two threads are shown for what that costs.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slipway.components.featurize.step import FeaturizeRequest, run
from slipway.components.progress import Progress
from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.split import FeaturesSpec, SplitSpec
from slipway.feature_store.engine import DuckDBEngine
from slipway.feature_store.views import BUILT_IN

WINDOWS = (timedelta(days=7), timedelta(days=30))


def write_dataset(folder: Path, events: int, users: int, items: int) -> Path:
    """Writes a dataset artifact of 90 days, with few busy users and popular items."""
    generator = np.random.default_rng(0)
    activity = generator.lognormal(0, 1.2, users)
    popularity = 1 / np.arange(1, items + 1) ** 0.8
    table = pa.table(
        {
            "user": generator.choice(users, events, p=activity / activity.sum()).astype(str),
            "item": generator.choice(items, events, p=popularity / popularity.sum()).astype(str),
            "timestamp": pa.array(
                1_600_000_000_000_000 + generator.integers(0, 90 * 86400, events) * 1_000_000, pa.timestamp("us")
            ),
            "rating": generator.integers(1, 11, events) / 2,
        }
    ).sort_by([("user", "ascending"), ("timestamp", "ascending"), ("item", "ascending")])
    with write_artifact(folder / "dataset", kind="dataset", slipway_version="benchmark") as draft:
        pq.write_table(table, draft.path / "interactions.parquet")
    return folder / "dataset"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = write_dataset(folder, arguments.events, arguments.users, arguments.items)
        fingerprints = set()
        for threads in (1, 2):
            started = time.perf_counter()
            request = FeaturizeRequest(
                dataset=dataset,
                output=folder / f"features-{threads}",
                split=SplitSpec(method="last_share"),
                features=FeaturesSpec(windows=WINDOWS),
                threads=threads,
            )
            run(request, Progress())
            fingerprints.add(read_manifest(request.output).fingerprint)
            print(f"step, {arguments.events:,} events, {threads} thread(s): {time.perf_counter() - started:.1f} s")
        print(f"same bytes from one thread and from two: {len(fingerprints) == 1}")
        train = pq.read_table(folder / "features-1" / "train.parquet")
        with DuckDBEngine() as engine:
            engine.load(train)
            for name, function in BUILT_IN.items():
                started = time.perf_counter()
                rows, features = len(engine.values(function(WINDOWS))), len(function(WINDOWS).features)
                print(f"  {name}: {time.perf_counter() - started:.1f} s, {rows:,} rows, {features} features")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
