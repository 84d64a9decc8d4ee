"""The online store: one packed blob per entity and view in Redis, read with one MGET.

Keys are `{project}:{view}:{schema hash}:{entity id}`: a new schema lives beside the old one, so that models of both can
serve. Reading never raises and never waits long: where Redis is away, rows are UNREACHABLE, and a circuit breaker keeps
the next requests from waiting at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from slipway.contracts.errors import DataError, ServiceError
from slipway.contracts.features import ViewSchema
from slipway.feature_store.blobs import HEADER_SIZE, MAGIC, Rows, Value, intact, layout_of, pack, unpack, unpack_values
from slipway.feature_store.circuit import CircuitBreaker

PRESENT, MISSING, EXPIRED, UNREACHABLE = range(4)
STATUS_NAMES = ("present", "missing", "expired", "unreachable")

READ_TIMEOUT_SECONDS = 0.02
WRITE_TIMEOUT_SECONDS = 10.0
WRITE_BATCH = 500  # batches of 5,000 raise the p99 of concurrent reads from 1 to 4 ms
READ_BATCH = 5_000

# Writes the rows whose (event time, as of) is newer than what is there; a correction of the same age wins, the same
# content keeps its old writing time, so that a repeated load does not make a stale row look fresh. One script is one
# atomic step: a backfill cannot slip between another writer's comparison and its write.
_GUARDED_WRITE = f"""
local old = redis.call('MGET', unpack(KEYS))
local chosen, outcome = {{}}, {{}}
for i = 1, #KEYS do
  local new, before, result = ARGV[i], old[i], 1
  if before and #before >= {HEADER_SIZE} and string.sub(before, 1, 4) == '{MAGIC.decode()}' then
    local new_event, new_as_of = struct.unpack('<i8i8', new, 17)
    local old_event, old_as_of = struct.unpack('<i8i8', before, 17)
    if new_event < old_event or (new_event == old_event and new_as_of < old_as_of) then
      result = 2
    elseif new_event == old_event and new_as_of == old_as_of and string.sub(new, {HEADER_SIZE + 1}) == string.sub(before, {HEADER_SIZE + 1}) then
      result = 0
    end
  end
  outcome[i] = result
  if result == 1 then
    chosen[#chosen + 1] = KEYS[i]
    chosen[#chosen + 1] = new
  end
end
if #chosen > 0 then redis.call('MSET', unpack(chosen)) end
return table.concat(outcome)
"""  # noqa: E501
_SAME, _WRITTEN, _OLDER = b"012"


@dataclass(frozen=True)
class FeatureRows:
    """What the store knows of n entities in one view.

    `values`: float32 [n, m], the numeric features in order; NaN where a value is null or the row is not PRESENT.
    `status`: uint8 [n]. `age_seconds`: float64 [n], NaN where there is no row.
    """

    view: ViewSchema
    values: NDArray[np.float32]
    status: NDArray[np.uint8]
    age_seconds: NDArray[np.float64]

    def filled(self) -> NDArray[np.float32]:
        """Returns the values with every NaN replaced by the feature's default, float32 [n, m]."""
        defaults = np.array([float(feature.default) for feature in self.view.numeric], dtype=np.float32)
        return np.where(np.isnan(self.values), defaults, self.values)


@dataclass
class StoreCounts:
    """What happened since the store was opened."""

    corrupted: int = 0
    failed_reads: int = 0
    refused_reads: int = 0


@dataclass(frozen=True)
class WriteCounts:
    """What became of the rows of a write: written, already there with the same content, or older than what is there."""

    written: int = 0
    unchanged: int = 0
    older: int = 0

    def __add__(self, other: WriteCounts) -> WriteCounts:
        return WriteCounts(self.written + other.written, self.unchanged + other.unchanged, self.older + other.older)


@dataclass
class OnlineStore:
    """Reads and writes feature rows. Threads may share it.

    Args:
        url: `redis://host:port/database`.
        project: Name space of the keys.
        timeout: Longest wait of a read for Redis, in seconds.
    """

    url: str
    project: str
    timeout: float = READ_TIMEOUT_SECONDS
    counts: StoreCounts = field(default_factory=StoreCounts)

    def __post_init__(self) -> None:
        try:
            self._reader = _client(self.url, self.timeout)
            self._writer = _client(self.url, WRITE_TIMEOUT_SECONDS)
        except ValueError as error:
            raise ServiceError(
                f"this is not the address of a Redis ({error})",
                where=_without_password(self.url),
                remedy="Write it as redis://127.0.0.1:6379/0.",
            ) from None
        self._guarded_write = self._writer.register_script(_GUARDED_WRITE)
        self._circuit = CircuitBreaker()

    def key(self, view: ViewSchema, entity: str) -> bytes:
        """Returns the key of one entity's row."""
        return self._prefix(view) + entity.encode()

    def read(self, view: ViewSchema, ids: Sequence[str], now: float | None = None) -> FeatureRows:
        """Reads the rows of n entities. Never raises for a Redis that is away, slow or holds rubbish.

        Args:
            view: The schema that the reader was made for.
            ids: Entity ids.
            now: Seconds since 1970 that age and expiry are counted to; the current time by default.
        """
        return self.read_many([view], ids, now)[view.name]

    def read_many(
        self, views: Sequence[ViewSchema], ids: Sequence[str], now: float | None = None
    ) -> dict[str, FeatureRows]:
        """Reads the rows of the same n entities in several views with one MGET. As `read`."""
        now = time.time() if now is None else now
        blobs = self._blobs(views, ids)
        if blobs is None:
            return {view.name: _unreachable(view, len(ids)) for view in views}
        count = len(ids)
        result = {}
        for position, view in enumerate(views):
            rows = unpack(view, blobs[position * count : (position + 1) * count])
            self.counts.corrupted += rows.corrupted
            result[view.name] = _with_status(view, rows, now)
        return result

    def read_values(self, view: ViewSchema, ids: Sequence[str]) -> list[dict[str, Value] | None]:
        """Reads every feature, strings too, with its exact type; None where there is no usable row.

        Expired rows are returned: use `read` for the status.

        Raises:
            ServiceError: Redis cannot be reached.
        """
        return unpack_values(view, self.read_blobs(view, ids))

    def read_blobs(self, view: ViewSchema, ids: Sequence[str]) -> list[bytes | None]:
        """Returns the packed rows as they are.

        Raises:
            ServiceError: Redis cannot be reached.
        """
        prefix = self._prefix(view)
        try:
            return _mget(self._writer, [prefix + entity.encode() for entity in ids])
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error

    def write(self, view: ViewSchema, table: Any, as_of: int | None = None) -> WriteCounts:
        """Writes rows unless the store holds newer ones.

        Args:
            view: The schema.
            table: Arrow table of the entity's column (`user` or `item`), `event_time`, the features, and `as_of`
                where rows have times of their own; timestamps in UTC.
            as_of: The time as of which all rows hold, microseconds since 1970 UTC; unused with an `as_of` column,
                and each row's event time by default.

        Returns:
            How many rows were written, unchanged, and older than what is there.

        Raises:
            DataError: A column is absent or of another type.
            ServiceError: Redis cannot be reached, or refuses the write.
        """
        from slipway.feature_store.columns import columns_of, microseconds

        if view.entity not in table.column_names or table.column(view.entity).null_count:
            raise DataError(
                f"there is no column {view.entity!r} without nulls",
                where=f"feature view {view.name}",
                remedy="Run featurize again.",
            )
        event_time = microseconds(table, "event_time")
        if "as_of" in table.column_names:
            times = microseconds(table, "as_of")
        else:
            times = event_time if as_of is None else np.full(len(event_time), as_of, dtype=np.int64)
        written_at = time.time_ns() // 1000
        blobs = pack(view, columns_of(view, table), event_time=event_time, as_of=times, written_at=written_at)
        prefix = self._prefix(view)
        keys = [prefix + entity.encode() for entity in table.column(view.entity).to_pylist()]
        counts = WriteCounts()
        try:
            for start in range(0, len(keys), WRITE_BATCH):
                part = slice(start, start + WRITE_BATCH)
                counts += self._write_batch(view, keys[part], blobs[part])
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error
        return counts

    def _write_batch(self, view: ViewSchema, keys: list[bytes], blobs: list[bytes]) -> WriteCounts:
        outcome = bytes(self._guarded_write(keys=keys, args=blobs))
        older = [row for row, result in enumerate(outcome) if result == _OLDER]
        mended = 0
        if older:
            # A damaged blob must not keep good ones out by the event time that it claims.
            layout = layout_of(view)
            found = _mget(self._writer, [keys[row] for row in older])
            damaged = [
                row for row, blob in zip(older, found, strict=True) if blob is not None and not intact(blob, layout)
            ]
            mended = len(damaged)
            if damaged:
                self._writer.mset({keys[row]: blobs[row] for row in damaged})
        return WriteCounts(outcome.count(_WRITTEN) + mended, outcome.count(_SAME), len(older) - mended)

    def delete(self, view: ViewSchema, ids: Sequence[str]) -> int:
        """Deletes the rows of entities in one view and returns how many there were. Raises ServiceError."""
        try:
            return int(self._writer.delete(*(self.key(view, entity) for entity in ids))) if ids else 0
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error

    def delete_view(self, view: ViewSchema) -> int:
        """Deletes all rows of a view with this schema and returns how many there were. Raises ServiceError."""
        deleted = 0
        try:
            for keys in _batches(self._writer.scan_iter(match=_escaped(self._prefix(view)) + b"*", count=1000), 1000):
                deleted += int(self._writer.unlink(*keys))
        except (redis.RedisError, OSError) as error:
            raise self._away(error) from error
        return deleted

    def close(self) -> None:
        """Closes the connections."""
        self._reader.close()
        self._writer.close()

    def _prefix(self, view: ViewSchema) -> bytes:
        return f"{self.project}:{view.name}:{layout_of(view).schema_hash}:".encode()

    def _blobs(self, views: Sequence[ViewSchema], ids: Sequence[str]) -> list[bytes | None] | None:
        """Returns the blobs of all views one after the other; None where Redis is away."""
        if not ids or not views:
            return []
        if not self._circuit.allows():
            self.counts.refused_reads += 1
            return None
        encoded = [entity.encode(errors="replace") for entity in ids]
        keys = [prefix + entity for prefix in map(self._prefix, views) for entity in encoded]
        try:
            try:
                blobs = _mget(self._reader, keys)
            except redis.TimeoutError:
                raise
            except redis.ConnectionError:
                # The connection was of a Redis that has restarted since: its pool is stale, a new one may do.
                self._reader.connection_pool.disconnect(inuse_connections=False)
                blobs = _mget(self._reader, keys)
        except redis.TimeoutError:
            self._failed(sure=False)
            return None
        except (redis.RedisError, OSError):
            self._failed(sure=True)
            return None
        self._circuit.succeeded()
        return blobs

    def _failed(self, *, sure: bool) -> None:
        self.counts.failed_reads += 1
        self._circuit.failed(sure=sure)

    def _away(self, error: Exception) -> ServiceError:
        return ServiceError(
            f"Redis does not do what is asked ({error})",
            where=_without_password(self.url),
            remedy="Start the serving plane with: slipway up, or name another Redis.",
        )


def _client(url: str, timeout: float) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
    )


def _mget(client: redis.Redis, keys: list[bytes]) -> list[bytes | None]:
    blobs: list[Any] = []
    for start in range(0, len(keys), READ_BATCH):
        blobs += client.mget(keys[start : start + READ_BATCH])
    return blobs


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _escaped(pattern: bytes) -> bytes:
    return b"".join(b"\\" + bytes([letter]) if letter in b"*?[]^\\" else bytes([letter]) for letter in pattern)


def _with_status(view: ViewSchema, rows: Rows, now: float) -> FeatureRows:
    # How old the row was when it was computed, and how long ago it was written, by one clock each: so that the events
    # of a recording do not all look expired today.
    age = (rows.as_of - rows.event_time) / 1e6 + np.maximum(now - rows.written_at / 1e6, 0.0)
    age = np.where(rows.valid, age, np.nan)
    status = np.where(rows.valid, PRESENT, MISSING).astype(np.uint8)
    values = rows.values
    if view.time_to_live is not None:
        expired = rows.valid & (age > view.time_to_live)
        status[expired] = EXPIRED
        values[expired] = np.nan
    return FeatureRows(view, values, status, age)


def _unreachable(view: ViewSchema, count: int) -> FeatureRows:
    return FeatureRows(
        view,
        np.full((count, len(view.numeric)), np.nan, dtype=np.float32),
        np.full(count, UNREACHABLE, dtype=np.uint8),
        np.full(count, np.nan),
    )


def _without_password(url: str) -> str:
    head, separator, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if separator else url
