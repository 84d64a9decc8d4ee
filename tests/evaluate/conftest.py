"""A small world with planted tastes: users of a group like the items of that group, popular ones more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.contracts.artifacts import write_artifact
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.models.families import load_family, save_model
from slipway.models.ids import IdIndex
from slipway.models.interface import TrainingData

VIEW = ViewSchema(
    name="user_activity",
    entity="user",
    features=(FeatureSchema(name="events_7d"), FeatureSchema(name="events_30d", default=1.0)),
)


@dataclass(frozen=True)
class World:
    """A project with `features` and `dataset` artifacts, and models by name under `models`."""

    directory: Path
    features: Path
    dataset: Path
    models: Mapping[str, Path]


def write_world(directory: Path, *, n_users: int = 150, n_items: int = 90, seed: int = 0) -> World:
    generator = np.random.default_rng(seed)
    group_of_item = np.arange(n_items) % 3
    appeal = 1.0 / (1 + np.arange(n_items) // 3) ** 0.5
    rows: list[tuple[str, str, int]] = []
    held_out: list[tuple[str, str, int]] = []
    for user in range(n_users):
        taste = np.where(group_of_item == user % 3, 8.0, 1.0) * appeal
        size = int(generator.integers(8, 25))
        chosen = generator.choice(n_items, size=size, replace=False, p=taste / taste.sum())
        generator.shuffle(chosen)
        events = [(f"u{user}", f"i{item}", 1_000_000 * (user * 100 + rank)) for rank, item in enumerate(chosen)]
        rows += events[:-3]
        held_out += events[-3:]
    users = [f"u{user}" for user in range(n_users)]
    activity = {user: float(sum(row[0] == user for row in rows)) for user in users}

    features = directory / "features"
    with write_artifact(features, kind="features", slipway_version="test") as draft:
        pq.write_table(_events(sorted(rows)), draft.path / "train.parquet")
        pq.write_table(_events(sorted(held_out)), draft.path / "test.parquet")
        items = sorted(f"i{item}" for item in range(n_items))
        pq.write_table(pa.table({"item": items}), draft.path / "items.parquet")
        latest = {
            "user": users,
            "event_time": pa.array([0] * n_users, pa.timestamp("us")),
            "events_7d": pa.array([activity[user] if index % 10 else None for index, user in enumerate(users)]),
            "events_30d": pa.array([activity[user] for user in users]),
        }
        pq.write_table(pa.table(latest), draft.path / "latest_user_activity.parquet")
    dataset = directory / "dataset"
    with write_artifact(dataset, kind="dataset", slipway_version="test") as draft:
        genres = ["Drama|War" if item % 3 == 0 else "Comedy" if item % 3 == 1 else None for item in range(n_items)]
        table = {"item": [f"i{item}" for item in range(n_items)], "genres": pa.array(genres, pa.string())}
        pq.write_table(pa.table(table), draft.path / "items.parquet")
        people = {"user": users, "age": [20 + index for index in range(n_users)]}
        pq.write_table(pa.table(people), draft.path / "users.parquet")
    models = {
        "good": _train(directory / "good", features, "matrix_factorization", {"factors": 8, "epochs": 5}, (VIEW,)),
        "poor": _train(directory / "poor", features, "popularity", {}, ()),
    }
    return World(directory, features, dataset, models)


def _events(rows: list[tuple[str, str, int]]) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    return pa.table(
        {
            "user": pa.array(users, pa.string()),
            "item": pa.array(items, pa.string()),
            "timestamp": pa.array(times, pa.timestamp("us")),
            "rating": pa.array([4.0 if index % 2 else 5.0 for index in range(len(rows))]),
            "weight": pa.array([1.0] * len(rows), pa.float32()),
        }
    )


def _train(
    directory: Path, features: Path, family: str, parameters: dict[str, Any], views: tuple[ViewSchema, ...]
) -> Path:
    train = pq.read_table(features / "train.parquet")
    users = IdIndex.from_strings(train.column("user").to_pylist())
    items = IdIndex.from_strings(pq.read_table(features / "items.parquet").column("item").to_pylist())
    latest = pq.read_table(features / "latest_user_activity.parquet")
    values = np.full((len(users), 2), np.nan, dtype=np.float32)
    for position, name in enumerate(("events_7d", "events_30d")):
        column = latest.column(name).to_numpy(zero_copy_only=False)
        values[users.rows(latest.column("user").to_pylist()), position] = column
    user_rows = users.rows(train.column("user").to_pylist())
    data = TrainingData(
        users=users,
        items=items,
        user_rows=user_rows,
        item_rows=items.rows(train.column("item").to_pylist()),
        weights=np.ones(train.num_rows, dtype=np.float32),
        timestamps=np.arange(train.num_rows, dtype=np.int64),
        user_features={"user_activity": values} if views else {},
        label_features={"user_activity": values[user_rows]} if views else {},
        views=views,
    )
    directory.mkdir(parents=True)
    save_model(load_family(family).fit(data, parameters, seed=1), directory)
    return directory


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world that tests only read."""
    return write_world(tmp_path_factory.mktemp("world"))
