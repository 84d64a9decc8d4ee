"""Feast's own SDK over what Slipway computed and wrote; one import of Feast serves all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.contracts.artifacts import write_artifact
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.feature_store.feast_repo import apply_repository, import_feast
from slipway.feature_store.materialize import materialize
from slipway.feature_store.online import OnlineStore

pytestmark = pytest.mark.integration

VIEW = ViewSchema(
    name="user_activity",
    entity="user",
    features=(
        FeatureSchema(name="events", dtype="int64"),
        FeatureSchema(name="mean_rating"),
        FeatureSchema(name="country", dtype="string", default=""),
    ),
    time_to_live=3600,
)
START = datetime(2020, 1, 1, tzinfo=UTC)
PROJECT = "film-club"


def write_features(folder: Path, *views: ViewSchema) -> Path:
    microseconds = int(START.timestamp() * 1e6)
    with write_artifact(folder / "features", kind="features", slipway_version="test") as draft:
        (draft.path / "views.json").write_text(json.dumps([view.model_dump(mode="json") for view in views]))
        for view in views:
            columns: dict[str, Any] = {
                view.entity: ["ann", "bo", "cy"],
                "event_time": pa.array([microseconds] * 3, pa.timestamp("us")),
                # Cy was looked at two hours after the last event: expired from the start.
                "as_of": pa.array([microseconds, microseconds, microseconds + 7_200_000_000], pa.timestamp("us")),
                "events": pa.array([3, 2**40 + 1, 5], pa.int64()),
                "mean_rating": pa.array([4.5, None, 3.0], pa.float32()),
                "country": ["SE", None, "NO"],
            }
            names = [view.entity, "event_time", "as_of", *(feature.name for feature in view.features)]
            pq.write_table(pa.table(columns).select(names), draft.path / f"latest_{view.name}.parquet")
    return folder / "features"


def online(repository: Path, ids: list[str], *, view: str = "user_activity", entity: str = "user") -> dict[str, Any]:
    store = import_feast().FeatureStore(repo_path=str(repository))
    features = [f"{view}:events", f"{view}:mean_rating", f"{view}:country"]
    answer = store.get_online_features(features, entity_rows=[{entity: one} for one in ids])
    statuses = {
        name: [int(status) for status in vector.statuses]
        for name, vector in zip(answer.proto.metadata.feature_names.val, answer.proto.results, strict=True)
    }
    return answer.to_dict() | {"statuses": statuses}


def test_the_sdk_reads_the_packed_rows_with_their_types_and_honest_status(tmp_path: Path, redis_url: str) -> None:
    features, repository = write_features(tmp_path, VIEW), tmp_path / "feast"
    materialize(features, OnlineStore(redis_url, PROJECT))
    apply_repository(features, repository, project=PROJECT, redis_url=redis_url, materialized=True)
    found = online(repository, ["ann", "bo", "cy", "nobody"])
    assert found["events"] == [3, 2**40 + 1, None, None]
    assert found["mean_rating"] == [4.5, None, None, None]
    assert found["country"] == ["SE", None, None, None]
    present, not_found = 1, 3
    assert found["statuses"]["events"] == [present, present, not_found, not_found], "cy expired, nobody is unknown"


def test_applying_again_changes_nothing_and_a_view_that_is_gone_is_removed(tmp_path: Path, redis_url: str) -> None:
    other = ViewSchema(name="item_popularity", entity="item", features=VIEW.features)
    repository = tmp_path / "feast"
    features = write_features(tmp_path, VIEW, other)
    store = OnlineStore(redis_url, PROJECT)
    materialize(features, store)
    for _ in range(2):
        applied = apply_repository(features, repository, project=PROJECT, redis_url=redis_url, materialized=True)
        assert applied.views == ("user_activity", "item_popularity")
        assert applied.removed == ()
    registry = import_feast().FeatureStore(repo_path=str(repository))
    assert len(registry.get_feature_view("user_activity").materialization_intervals) == 1
    assert {entity.name for entity in registry.list_entities()} >= {"user", "item"}
    assert registry.get_feature_view("user_activity").ttl.total_seconds() == 3600
    assert online(repository, ["ann"], view="item_popularity", entity="item")["events"] == [3]

    applied = apply_repository(write_features(tmp_path, VIEW), repository, project=PROJECT)
    assert applied.removed == ("item_popularity",)
    assert [view.name for view in import_feast().FeatureStore(repo_path=str(repository)).list_feature_views()] == [
        "user_activity"
    ]
    assert store.read_values(other, ["ann"]) == [None], "its rows went with it"
    assert online(repository, ["ann"])["events"] == [3]


def test_a_changed_schema_is_registered_and_the_old_rows_stay_for_the_old_model(tmp_path: Path, redis_url: str) -> None:
    repository, store = tmp_path / "feast", OnlineStore(redis_url, PROJECT)
    changed = VIEW.model_copy(update={"time_to_live": None})
    for view in (VIEW, changed):
        features = write_features(tmp_path, view)
        materialize(features, store)
        apply_repository(features, repository, project=PROJECT, redis_url=redis_url)
    assert online(repository, ["cy"])["events"] == [5], "without a time to live nothing expires"
    assert store.read_values(VIEW, ["ann"]) != [None]


def test_feasts_own_materialize_writes_what_slipway_reads(tmp_path: Path, redis_url: str) -> None:
    features, repository = write_features(tmp_path, VIEW), tmp_path / "feast"
    apply_repository(features, repository, project=PROJECT, redis_url=redis_url)
    registry = import_feast().FeatureStore(repo_path=str(repository))
    registry.materialize(datetime(2019, 12, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC), ["user_activity"])
    rows = OnlineStore(redis_url, PROJECT).read(VIEW, ["ann", "bo"])
    assert rows.status.tolist() == [0, 0]
    assert rows.filled()[:, 1].tolist() == [4.5, 0.0]
    assert OnlineStore(redis_url, PROJECT).read_values(VIEW, ["bo"]) == [
        {"events": 2**40 + 1, "mean_rating": None, "country": None}
    ]
