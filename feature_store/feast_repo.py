"""A Feast repository of the same views: entities, feature views, sources, time to live.

Feast keeps the registry and the definitions, so that its own SDK, UI and servers work on what Slipway computed. Values
are written by `slipway.feature_store.materialize`, two orders of magnitude faster than Feast writes them, and read by
Feast through `slipway.feature_store.feast_online_store`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from slipway.contracts.errors import EnvironmentProblemError, require_extra
from slipway.contracts.features import ViewSchema
from slipway.contracts.files import write_atomically
from slipway.feature_store.artifact import latest_file, read_views

SCHEMA_TAG = "slipway_schema"
STORE_TYPE = "slipway.feature_store.feast_online_store.SlipwayOnlineStore"
_DATA, _REGISTRY, _CONFIG = "data", "registry.db", "feature_store.yaml"


@dataclass(frozen=True)
class Registration:
    """What the repository holds after an apply."""

    repository: Path
    project: str
    views: tuple[str, ...]
    removed: tuple[str, ...]


def apply_repository(
    features: Path, repository: Path, *, project: str, redis_url: str | None = None, materialized: bool = False
) -> Registration:
    """Writes the repository of a features artifact and registers its views. May be repeated.

    Args:
        features: The features artifact; its latest values are copied, so that it may be removed later.
        repository: Folder of the repository, made if absent.
        project: Name space of the online store; hyphens become underscores in Feast.
        redis_url: The online store; by default what the repository already names, or Feast's own SQLite.
        materialized: The latest values are in the online store: note that in the registry.

    Returns:
        The views that are registered now, and those that were removed because the artifact has them no longer.

    Raises:
        ArtifactError: The artifact is absent or cannot be read.
        EnvironmentProblemError: Feast is not installed, or the folder cannot be written.
    """
    views = read_views(features)
    feast = import_feast()
    data = repository / _DATA
    try:
        data.mkdir(parents=True, exist_ok=True)
        for view in views:
            _copy(latest_file(features, view), data / f"latest_{view.name}.parquet")
    except OSError as error:
        raise EnvironmentProblemError(
            f"the Feast repository cannot be written ({error.strerror or error})", where=str(repository)
        ) from error
    name = feast_project(project)
    _write_config(repository, project, redis_url)
    store = feast.FeatureStore(repo_path=str(repository))
    entities = [
        feast.Entity(name=entity, join_keys=[entity], value_type=feast.ValueType.STRING)
        for entity in sorted({view.entity for view in views})
    ]
    feature_views = [_feature_view(feast, view, data, entities) for view in views]
    stale = [
        old
        for old in store.list_feature_views()
        if SCHEMA_TAG in old.tags and old.name not in {view.name for view in views}
    ]
    store.apply([*entities, *feature_views], objects_to_delete=stale, partial=False)
    if materialized:
        _note_materialization(store, name, views, data)
    return Registration(repository, name, tuple(view.name for view in views), tuple(old.name for old in stale))


def import_feast() -> Any:
    """Returns the module feast, which takes seconds and hundreds of megabytes to import; sends nothing home.

    Raises:
        EnvironmentProblemError: Feast is not installed.
    """
    os.environ.setdefault("FEAST_USAGE", "False")
    try:
        import feast
    except ImportError as error:
        raise require_extra("feast", "features") from error
    return feast


def feast_project(project: str) -> str:
    """Returns the name that a project has in Feast, which knows letters, digits and underscores."""
    return re.sub(r"\W", "_", project)


def _write_config(repository: Path, project: str, redis_url: str | None) -> None:
    file = repository / _CONFIG
    online: dict[str, Any] | None = None
    if redis_url is not None:
        online = {"type": STORE_TYPE, "url": redis_url, "namespace": project}
    elif file.is_file():
        online = (yaml.safe_load(file.read_text()) or {}).get("online_store")
    config = {
        "project": feast_project(project),
        "provider": "local",
        "registry": f"{_DATA}/{_REGISTRY}",
        "offline_store": {"type": "file"},
        "online_store": online or {"type": "sqlite", "path": f"{_DATA}/online.db"},
        "entity_key_serialization_version": 3,
    }
    write_atomically(file, yaml.safe_dump(config, sort_keys=False), mode=0o600)


def _feature_view(feast: Any, view: ViewSchema, data: Path, entities: Sequence[Any]) -> Any:
    from feast import types

    kinds = {
        "float32": types.Float32, "float64": types.Float64, "int64": types.Int64,
        "bool": types.Bool, "string": types.String,
    }  # fmt: skip
    return feast.FeatureView(
        name=view.name,
        entities=[entity for entity in entities if entity.name == view.entity],
        schema=[
            feast.Field(name=view.entity, dtype=types.String),
            *(
                feast.Field(name=feature.name, dtype=kinds[feature.dtype], description=feature.description)
                for feature in view.features
            ),
        ],
        source=feast.FileSource(
            name=f"latest_{view.name}",
            path=str((data / f"latest_{view.name}.parquet").absolute()),
            timestamp_field="event_time",
        ),
        ttl=timedelta(seconds=view.time_to_live or 0),
        tags={SCHEMA_TAG: view.model_dump_json()},
    )


def _note_materialization(store: Any, project: str, views: Sequence[ViewSchema], data: Path) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for view in views:
        times = pq.read_table(data / f"latest_{view.name}.parquet", columns=["event_time"]).column("event_time")
        if not len(times):
            continue
        ends = pc.min_max(times).as_py()
        interval = (_utc(ends["min"]), _utc(ends["max"]))
        registered = store.get_feature_view(view.name)
        if interval not in [(_utc(start), _utc(end)) for start, end in registered.materialization_intervals]:
            store.registry.apply_materialization(registered, project, *interval)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
