"""The packed online store as Feast's own SDK sees it.

    online_store:
      type: slipway.feature_store.feast_online_store.SlipwayOnlineStore
      url: redis://127.0.0.1:6379/0
      namespace: films

Feast does not enforce a time to live online, and calls unknown entities present with null values; here both are absent,
which Feast reports as NOT_FOUND. It cannot be as fast as `OnlineStore`: Feast makes a message of every value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore as FeastOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

from slipway.contracts.errors import DataError
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.feature_store.blobs import unpack, unpack_values
from slipway.feature_store.columns import ARROW_TYPES
from slipway.feature_store.feast_repo import SCHEMA_TAG
from slipway.feature_store.online import OnlineStore

_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "string": "string_val",
}

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Found = tuple[datetime | None, dict[str, Value] | None]


class SlipwayOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `online_store` part of feature_store.yaml. `namespace` is the first part of the keys."""

    type: Literal["slipway.feature_store.feast_online_store.SlipwayOnlineStore"] = (
        "slipway.feature_store.feast_online_store.SlipwayOnlineStore"
    )
    url: str
    namespace: str


class SlipwayOnlineStore(FeastOnlineStore):  # type: ignore[misc]
    """Reads and writes packed rows for Feast."""

    def __init__(self) -> None:
        self._store: OnlineStore | None = None
        self._schemas: dict[str, ViewSchema] = {}

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Writes rows that Feast materializes or is pushed; an older row never replaces a newer one."""
        view = self._view(table)
        keys, values, times, _ = zip(*data, strict=True) if data else ((), (), (), ())
        columns = {
            view.entity: pa.array([_entity(key) for key in keys], pa.string()),
            "event_time": pa.array([_microseconds(moment) for moment in times], pa.int64()),
        }
        for feature in view.features:
            cells = [_plain(row.get(feature.name)) for row in values]
            columns[feature.name] = pa.array(cells, ARROW_TYPES[feature.dtype])
        self._open(config).write(view, pa.table(columns))
        if progress is not None:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKey],
        requested_features: Sequence[str] | None = None,
    ) -> list[Found]:
        """Reads rows; (None, None) for an entity that is absent or expired."""
        view = self._view(table)
        blobs = self._open(config).read_blobs(view, [_entity(key) for key in entity_keys])
        rows = unpack(view, blobs)
        age = (rows.as_of - rows.event_time) / 1e6 + np.maximum(time.time() - rows.written_at / 1e6, 0.0)
        fresh = rows.valid if view.time_to_live is None else rows.valid & (age <= view.time_to_live)
        wanted = [feature for feature in view.features if not requested_features or feature.name in requested_features]
        found: list[Found] = []
        for row, values in enumerate(unpack_values(view, blobs)):
            if values is None or not fresh[row]:
                found.append((None, None))
                continue
            cells = {feature.name: _message(feature, values[feature.name]) for feature in wanted}
            found.append((datetime.fromtimestamp(rows.event_time[row] / 1e6, UTC), cells))
        return found

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Deletes the rows of views that are registered no longer; rows of an older schema stay, models read them."""
        for table in tables_to_delete:
            if SCHEMA_TAG in table.tags:
                self._open(config).delete_view(self._view(table))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Deletes the rows of all views."""
        self.update(config, tables, (), entities, (), partial=False)

    def _open(self, config: RepoConfig) -> OnlineStore:
        if self._store is None:
            self._store = OnlineStore(config.online_store.url, config.online_store.namespace)
        return self._store

    def _view(self, table: FeatureView) -> ViewSchema:
        text = table.tags.get(SCHEMA_TAG)
        if text is None:
            raise DataError(
                f"the feature view {table.name!r} was not registered by slipway features apply",
                remedy="Keep views of other origin in another Feast project.",
            )
        if text not in self._schemas:
            self._schemas[text] = ViewSchema.model_validate_json(text)
        return self._schemas[text]


def _message(feature: FeatureSchema, value: Any) -> Value:
    message = Value()
    if value is not None:
        setattr(message, _FIELDS[feature.dtype], value)
    return message


def _entity(key: EntityKey) -> str:
    if len(key.entity_values) != 1:
        raise DataError("an entity of this store has one key", remedy="Give user or item.")
    return str(_plain(key.entity_values[0]))


def _plain(value: Value | None) -> Any:
    kind = None if value is None else value.WhichOneof("val")
    return None if kind is None or kind == "null_val" else getattr(value, kind)


def _microseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)
