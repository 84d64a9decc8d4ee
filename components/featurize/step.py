"""Holds interactions out and makes features, each as of its own time, as a `features` artifact.

    train.parquet            user, item, timestamp, weight, and rating, session where the data has them
    test.parquet             the same columns, held out; and repeated: the user has the item in train already,
                             unknown_item: nobody has it in train
    items.parquet            the items of train, sorted by id, with their attributes
    train_<view>.parquet     row i: the view's values just before the event in row i of train.parquet
    latest_<view>.parquet    one row per entity: id, event_time (its last event), as_of (the moment looked at), values
    views.json               the schemas of the views that have latest values
    report.md                the split and the views, for people

The latest values use training data only. They are as of the cut where the split has one; otherwise each user is looked
at just before the first held-out event of their own, and items at the end of training.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from slipway.components.featurize.report import report
from slipway.components.featurize.split import Split, first_rows, split_interactions
from slipway.components.featurize.tables import parts_of, read_interactions, read_items, write_table
from slipway.components.progress import Progress
from slipway.contracts.artifacts import ArtifactDraft, read_manifest, write_artifact
from slipway.contracts.files import write_atomically, write_json
from slipway.contracts.split import FeaturesSpec, SplitSpec
from slipway.feature_store.artifact import VIEWS_FILE
from slipway.feature_store.engine import DuckDBEngine
from slipway.feature_store.views import FeatureView, load_views


class FeaturizeRequest(BaseModel):
    """What to make features of and where they go.

    `project_directory` is where own views are found. `feast_repository` is the folder of a Feast repository to register
    the views in, `redis_url` an online store to write the latest values to, both under the name `project`; neither is
    needed. One thread gives the same bytes on every machine; more are faster.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Path
    output: Path
    split: SplitSpec = SplitSpec()
    features: FeaturesSpec = FeaturesSpec()
    project_directory: Path | None = None
    project: str = "slipway"
    feast_repository: Path | None = None
    redis_url: str | None = None
    threads: int = Field(default=1, ge=1)
    memory_limit: str = Field(default="4GB", pattern=r"^\d+(\.\d+)?\s?[KMG]i?B$")


class FeaturizeResult(BaseModel):
    """What the artifact holds. `metrics` are its counts; `materialized` the rows of each view that Redis now holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    views: tuple[str, ...]
    warnings: tuple[str, ...]
    metrics: dict[str, float]
    materialized: dict[str, int] = {}


def run(request: FeaturizeRequest, progress: Progress) -> FeaturizeResult:
    """Splits the interactions, computes the views and writes the artifact.

    Raises:
        ArtifactError: The dataset is not whole.
        DataError: The split leaves nothing to train on or to hold out, or a view cannot be computed.
        UsageError: A view is unknown, or reads a column that is not there.
        ServiceError: The online store was asked for and cannot be reached.
        EnvironmentProblemError: The disk is full.
    """
    dataset = read_manifest(request.dataset, kind="dataset")
    views = load_views(request.features.views, request.features.windows, request.project_directory)
    progress.stage("splitting", total=1)
    events = read_interactions(request.dataset)
    times = events.column("timestamp").cast(pa.int64()).to_numpy()
    split = split_interactions(request.split, events, times)
    train, test = parts_of(events, split.held_out)
    items = read_items(request.dataset)
    counts = _counts(train, test)
    warnings = _warnings(request.split, counts)
    progress.advance()
    with write_artifact(
        request.output, kind="features", slipway_version=importlib.metadata.version("slipway")
    ) as draft:
        draft.parents.append(dataset.as_parent("dataset"))
        write_table(draft, "train.parquet", train)
        write_table(draft, "test.parquet", test)
        write_table(draft, "items.parquet", _catalogue(train, items))
        moments = _moments(events, times, split)
        _write_views(request, views, train, items, moments, draft, progress)
        online = [view.schema(request.features.time_to_live) for view in views if view.entity != "interaction"]
        write_json(draft.path / VIEWS_FILE, [view.model_dump(mode="json") for view in online])
        draft.time_range = _time_range(train)
        write_atomically(draft.path / "report.md", report(request.split, counts, views, warnings))
        draft.metadata = {
            "split": request.split.model_dump(mode="json"),
            "features": request.features.model_dump(mode="json"),
            "cut": split.cut,
            "counts": counts,
            "label_time_only": [view.name for view in views if view.entity == "interaction"],
        }
    for warning in warnings:
        progress.note(warning)
    materialized = _publish(request, progress)
    return FeaturizeResult(
        output=request.output,
        fingerprint=read_manifest(request.output, kind="features").fingerprint,
        views=tuple(view.name for view in views),
        warnings=tuple(warnings),
        metrics={name: float(value) for name, value in counts.items()},
        materialized=materialized,
    )


def _write_views(
    request: FeaturizeRequest,
    views: tuple[FeatureView, ...],
    train: pa.Table,
    items: pa.Table | None,
    moments: dict[str, pa.Table],
    draft: ArtifactDraft,
    progress: Progress,
) -> None:
    time_to_live: timedelta | None = request.features.time_to_live
    with (
        tempfile.TemporaryDirectory(prefix=".featurize-", dir=draft.path.parent) as temporary,
        DuckDBEngine(threads=request.threads, memory_limit=request.memory_limit, temporary=Path(temporary)) as engine,
    ):
        engine.load(train, items)
        for view in progress.track(views, "features", total=len(views)):
            values = engine.values(view, moments.get(view.entity), time_to_live=time_to_live)
            names = [feature.name for feature in view.features]
            labels = values.slice(0, len(train))
            write_table(
                draft, f"train_{view.name}.parquet", labels.select(["event_time", *names]), times=["event_time"]
            )
            if view.entity == "interaction":
                continue
            latest = values.slice(len(train))
            # Without a past there is no row: online, too, the entity is then missing.
            latest = latest.filter(latest.column("event_time").is_valid()).rename_columns({"time": "as_of"})
            latest = latest.select([view.entity, "event_time", "as_of", *names])
            write_table(draft, f"latest_{view.name}.parquet", latest, times=["event_time", "as_of"])


def _moments(events: pa.Table, times: NDArray[np.int64], split: Split) -> dict[str, pa.Table]:
    """Returns for users and items the moment that each is looked at, sorted by id."""
    held = split.held_out
    users = events.column("user")
    starts = first_rows(users)
    trained = np.add.reduceat(~held, starts) > 0
    # Just after the last event of training, so that "before" includes it.
    end = int(times[~held].max()) + 1 if split.cut is None else split.cut
    first_held_out = np.minimum.reduceat(np.where(held, times, np.iinfo(np.int64).max), starts)
    moment = np.where(first_held_out < np.iinfo(np.int64).max, first_held_out, end) if split.cut is None else end
    user_times = np.broadcast_to(moment, len(starts)).astype(np.int64)[trained]
    items = pc.unique(events.column("item").filter(pa.array(~held)))
    items = items.take(pc.sort_indices(items))
    return {
        "user": pa.table({"user": users.take(pa.array(starts[trained])), "time": pa.array(user_times)}),
        "item": pa.table({"item": items, "time": pa.array(np.full(len(items), end, dtype=np.int64))}),
    }


def _catalogue(train: pa.Table, items: pa.Table | None) -> pa.Table:
    """Returns the items of train with their attributes, sorted by id: the row numbers that models use."""
    ids = pc.unique(train.column("item"))
    catalogue = pa.table({"item": ids})
    if items is not None:
        catalogue = catalogue.join(items, keys="item", join_type="left outer", use_threads=False)
    return catalogue.take(pc.sort_indices(catalogue, [("item", "ascending")]))


def _counts(train: pa.Table, test: pa.Table) -> dict[str, int]:
    useful = pc.invert(pc.or_(test.column("repeated"), test.column("unknown_item")))
    known = pc.is_in(test.column("user"), pc.unique(train.column("user")))
    return {
        "train": len(train),
        "test": len(test),
        "users": len(pc.unique(train.column("user"))),
        "items": len(pc.unique(train.column("item"))),
        "test_repeated": pc.sum(test.column("repeated")).as_py() or 0,
        "test_unknown_item": pc.sum(test.column("unknown_item")).as_py() or 0,
        "test_unknown_user": len(test) - (pc.sum(known).as_py() or 0),
        "evaluable_users": len(pc.unique(test.column("user").filter(pc.and_(useful, known)))),
    }


def _warnings(spec: SplitSpec, counts: dict[str, int]) -> list[str]:
    users = counts["evaluable_users"]
    if users >= spec.minimum_users:
        return []
    warning = (
        f"only {users:,} users have both a history and new items held out; split.minimum_users asks for "
        f"{spec.minimum_users:,}. With short histories, last_share or leave_last_out keep more of them than time does"
    )
    return [warning]


def _time_range(train: pa.Table) -> tuple[str, str]:
    ends = pc.min_max(train.column("timestamp")).as_py()
    return ends["min"].isoformat(), ends["max"].isoformat()


def _publish(request: FeaturizeRequest, progress: Progress) -> dict[str, int]:
    rows: dict[str, int] = {}
    if request.redis_url is not None:
        from slipway.feature_store.materialize import materialize
        from slipway.feature_store.online import OnlineStore

        progress.stage("writing to the online store")
        rows = materialize(request.output, OnlineStore(request.redis_url, request.project))
    if request.feast_repository is not None:
        from slipway.feature_store.feast_repo import apply_repository

        progress.stage("registering in Feast")
        apply_repository(
            request.output,
            request.feast_repository,
            project=request.project,
            redis_url=request.redis_url,
            materialized=bool(rows),
        )
    return rows
