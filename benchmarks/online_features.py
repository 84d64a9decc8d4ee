"""Online feature reads: one MGET of packed rows, beside Feast's SDK on the same store and on Feast's own Redis store.

    python benchmarks/online_features.py [--reads 300] [--json FILE]

Everything runs on this machine: a redis-server of its own on loopback, readers in this process. Budget: P95 under 2 ms
for 1 entity and under 10 ms for 100 entities with 50 features.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import yaml

from slipway.contracts.artifacts import write_artifact
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.feature_store.feast_repo import apply_repository, import_feast
from slipway.feature_store.materialize import materialize
from slipway.feature_store.online import OnlineStore

ENTITIES = 20_000
SHAPES = ((1, 10), (1, 50), (100, 10), (100, 50), (500, 50))
BUDGET_MS = {1: 2.0, 100: 10.0}


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Runs a Redis and yields its address without a database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as client:
            for _ in range(500):
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    break
                time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def write_features(folder: Path, width: int) -> tuple[Path, ViewSchema]:
    """Writes a features artifact of random values and returns it with its view."""
    names = [f"f{index}" for index in range(width)]
    view = ViewSchema(name=f"wide_{width}", entity="user", features=tuple(FeatureSchema(name=name) for name in names))
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "user": [str(index) for index in range(ENTITIES)],
        "event_time": pa.array(np.full(ENTITIES, int(time.time() - 60) * 1_000_000), pa.timestamp("us")),
    }
    columns |= {name: generator.standard_normal(ENTITIES).astype(np.float32) for name in names}
    with write_artifact(folder / f"features-{width}", kind="features", slipway_version="benchmark") as draft:
        pq.write_table(pa.table(columns), draft.path / f"latest_{view.name}.parquet")
        (draft.path / "views.json").write_text(json.dumps([view.model_dump(mode="json")]))
    return folder / f"features-{width}", view


def milliseconds(read: Callable[[list[str]], Any], count: int, reads: int) -> tuple[float, float]:
    """Returns the median and the 95th percentile of reads of `count` random entities."""
    generator = np.random.default_rng(1)
    batches = [[str(one) for one in generator.integers(0, ENTITIES, count)] for _ in range(reads + 10)]
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        read(batch)
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.percentile(np.array(seconds[10:]) * 1000, [50, 95])
    return float(p50), float(p95)


def feast_reader(repository: Path, view: ViewSchema) -> Callable[[list[str]], Any]:
    """Returns a function that reads through Feast's SDK."""
    store = import_feast().FeatureStore(repo_path=str(repository))
    features = [f"{view.name}:{feature.name}" for feature in view.features]
    return lambda ids: store.get_online_features(features, entity_rows=[{"user": one} for one in ids]).to_dict()


def feast_own_repository(source: Path, target: Path, url: str, view: ViewSchema) -> None:
    """Makes a copy of a repository that uses Feast's own Redis store, and fills it by Feast."""
    config = yaml.safe_load((source / "feature_store.yaml").read_text())
    address = url.removeprefix("redis://")
    config["online_store"] = {"type": "redis", "connection_string": f"{address},db=1"}
    (target / "data").mkdir(parents=True)
    (target / "feature_store.yaml").write_text(yaml.safe_dump(config))
    original = import_feast().FeatureStore(repo_path=str(source))
    store = import_feast().FeatureStore(repo_path=str(target))
    store.apply([original.get_entity("user"), original.get_feature_view(view.name)])
    content = pq.read_table(source / "data" / f"latest_{view.name}.parquet").to_pandas().head(ENTITIES)
    store.write_to_online_store(view.name, df=content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with redis_server() as url, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        views = {}
        for width in sorted({width for _, width in SHAPES}):
            artifact, view = write_features(folder, width)
            store = OnlineStore(f"{url}/0", "benchmark")
            started = time.perf_counter()
            materialize(artifact, store)
            rate = ENTITIES / (time.perf_counter() - started)
            print(f"materialize, {width} features: {rate:,.0f} rows/s (guarded by event time)")
            packed = folder / f"packed-{width}"
            apply_repository(artifact, packed, project="benchmark", redis_url=f"{url}/0")
            started = time.perf_counter()
            feast_own_repository(packed, folder / f"hashes-{width}", url, view)
            rate = ENTITIES / (time.perf_counter() - started)
            print(f"Feast's write to its Redis store, {width} features: {rate:,.0f} rows/s")
            views[width] = (store, view, packed, folder / f"hashes-{width}")
        print("\np50 / p95 ms        slipway          Feast, our store   Feast, its store")
        for count, width in SHAPES:
            store, view, packed, hashes = views[width]
            readers = {
                "slipway": lambda ids, store=store, view=view: store.read(view, ids).filled(),
                "feast_on_packed_rows": feast_reader(packed, view),
                "feast_on_its_hashes": feast_reader(hashes, view),
            }
            times = {
                name: milliseconds(read, count, arguments.reads if name == "slipway" else max(arguments.reads // 5, 20))
                for name, read in readers.items()
            }
            shown = "".join(f"{p50:>10.2f} /{p95:>6.2f}" for p50, p95 in times.values())
            limit = BUDGET_MS.get(count)
            verdict = "" if limit is None else f"  {'within' if times['slipway'][1] < limit else 'OVER'} {limit:g} ms"
            print(f"{count:>14} x {width:<3} {shown}{verdict}")
            results.append({"entities": count, "features": width, **times})
    if arguments.json:
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        arguments.json.write_text(json.dumps({"machine": machine, "reads": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
