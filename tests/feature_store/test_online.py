from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from slipway.contracts.errors import DataError, ServiceError
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.feature_store.circuit import CircuitBreaker
from slipway.feature_store.online import EXPIRED, MISSING, PRESENT, UNREACHABLE, OnlineStore, WriteCounts

pytestmark = pytest.mark.integration

VIEW = ViewSchema(
    name="user_activity",
    entity="user",
    features=(
        FeatureSchema(name="events", dtype="int64"),
        FeatureSchema(name="mean_rating", default=2.5),
        FeatureSchema(name="country", dtype="string", default=""),
    ),
)
START = datetime(2020, 1, 1, tzinfo=UTC)


def rows(ids: list[str], *, at: datetime = START, events: int = 3, **more: Any) -> pa.Table:
    count = len(ids)
    columns = {
        "user": ids,
        "event_time": pa.array([at] * count, pa.timestamp("us", tz="UTC")),
        "events": pa.array([events] * count, pa.int64()),
        "mean_rating": pa.array([None if index % 2 else 4.0 for index in range(count)], pa.float32()),
        "country": ["SE"] * count,
    }
    return pa.table(columns | more)


def test_a_row_that_was_written_is_read_back_and_an_unknown_id_is_missing(redis_url: str) -> None:
    store = OnlineStore(redis_url, "films")
    assert store.write(VIEW, rows(["ann", "bo"])) == WriteCounts(written=2)
    found = store.read(VIEW, ["bo", "nobody", "ann"])
    assert found.status.tolist() == [PRESENT, MISSING, PRESENT]
    np.testing.assert_array_equal(found.values, [[3, np.nan], [np.nan, np.nan], [3, 4]])
    np.testing.assert_array_equal(found.filled(), [[3, 2.5], [0, 2.5], [3, 4]])
    assert 0 <= found.age_seconds[0] < 10
    assert np.isnan(found.age_seconds[1])
    assert store.read_values(VIEW, ["bo", "x"]) == [{"events": 3, "mean_rating": None, "country": "SE"}, None]


def test_several_views_come_with_one_command(redis_url: str) -> None:
    other = VIEW.model_copy(update={"name": "other"})
    store = OnlineStore(redis_url, "films")
    store.write(VIEW, rows(["ann"]))
    store.write(other, rows(["bo"]))
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
        found = store.read_many([VIEW, other], ["ann", "bo"])
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == before + 1
    assert found["user_activity"].status.tolist() == [PRESENT, MISSING]
    assert found["other"].status.tolist() == [MISSING, PRESENT]
    assert store.read_many([VIEW], [])["user_activity"].values.shape == (0, 2)


def test_projects_and_schemas_do_not_see_each_other(redis_url: str) -> None:
    changed = VIEW.model_copy(update={"features": VIEW.features[:2]})
    store = OnlineStore(redis_url, "films")
    store.write(VIEW, rows(["ann"]))
    assert store.read(changed, ["ann"]).status.tolist() == [MISSING]
    assert OnlineStore(redis_url, "songs").read(VIEW, ["ann"]).status.tolist() == [MISSING]
    store.write(changed, rows(["ann"], events=9))
    assert store.read(VIEW, ["ann"]).values[0, 0] == 3
    assert store.delete_view(changed) == 1
    assert store.read(VIEW, ["ann"]).status.tolist() == [PRESENT]


def test_an_older_row_never_overwrites_a_newer_one(redis_url: str) -> None:
    store = OnlineStore(redis_url, "films")
    ids = [f"user-{index}" for index in range(1200)]
    store.write(VIEW, rows(ids, at=START, events=5))
    half = rows(ids[:600], at=START + timedelta(microseconds=1), events=6)
    assert store.write(VIEW, half) == WriteCounts(written=600)
    backfill = rows(ids, at=START - timedelta(days=1), events=1)
    assert store.write(VIEW, backfill) == WriteCounts(older=1200)
    assert store.write(VIEW, rows(ids, at=START, events=5)) == WriteCounts(unchanged=600, older=600)
    assert store.read(VIEW, ids).values[:, 0].tolist() == [6] * 600 + [5] * 600
    assert store.write(VIEW, rows(ids[600:601], at=START, events=7)) == WriteCounts(written=1), "a correction"
    later = int((START + timedelta(days=1)).timestamp() * 1e6)
    assert store.write(VIEW, rows(ids[600:601], at=START, events=8), as_of=later) == WriteCounts(written=1)
    assert store.write(VIEW, rows(ids[600:601], at=START, events=9)) == WriteCounts(older=1)


def test_two_writers_at_once_leave_the_newest_row(redis_url: str) -> None:
    ids = [f"user-{index}" for index in range(800)]

    def write(steps: list[int]) -> None:
        store = OnlineStore(redis_url, "films")
        for step in steps:
            store.write(VIEW, rows(ids, at=START + timedelta(seconds=step), events=step))

    threads = [threading.Thread(target=write, args=(steps,)) for steps in ([1, 9, 3, 7], [8, 2, 6, 4])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(OnlineStore(redis_url, "films").read(VIEW, ids).values[:, 0].tolist()) == {9}


def test_a_row_expires_by_its_age_when_computed_plus_the_time_since(redis_url: str) -> None:
    view = VIEW.model_copy(update={"time_to_live": 100})
    store = OnlineStore(redis_url, "films")
    as_of = int((START + timedelta(seconds=60)).timestamp() * 1e6)
    store.write(view, rows(["ann"], at=START), as_of=as_of)
    now = time.time()
    assert store.read(view, ["ann"], now + 30).status.tolist() == [PRESENT]
    late = store.read(view, ["ann"], now + 45)
    assert late.status.tolist() == [EXPIRED]
    assert np.isnan(late.values).all()
    assert 100 < late.age_seconds[0] < 110


def test_loading_the_same_rows_again_does_not_make_them_younger(redis_url: str) -> None:
    store = OnlineStore(redis_url, "films")
    store.write(VIEW, rows(["ann"]))
    before = store.read_blobs(VIEW, ["ann"])
    assert store.write(VIEW, rows(["ann"])) == WriteCounts(unchanged=1)
    assert store.read_blobs(VIEW, ["ann"]) == before


def test_rubbish_in_redis_counts_as_missing_and_can_be_overwritten(redis_url: str) -> None:
    store = OnlineStore(redis_url, "films")
    store.write(VIEW, rows(["ann", "bo", "cy"], at=START + timedelta(days=400)))
    with redis.Redis.from_url(redis_url) as client:
        blob = client.get(store.key(VIEW, "ann"))
        assert isinstance(blob, bytes)
        client.set(store.key(VIEW, "ann"), blob[:-1] + bytes([blob[-1] ^ 1]))
        client.set(store.key(VIEW, "bo"), b"rubbish")
        client.delete(store.key(VIEW, "cy"))
        client.lpush(store.key(VIEW, "cy"), "a list")
    assert store.read(VIEW, ["ann", "bo", "cy"]).status.tolist() == [MISSING] * 3
    assert store.counts.corrupted == 2
    assert store.write(VIEW, rows(["ann", "bo", "cy"])) == WriteCounts(written=3)
    assert store.read(VIEW, ["ann", "bo", "cy"]).status.tolist() == [PRESENT] * 3


def test_reads_go_on_without_redis_and_find_it_when_it_is_back(
    own_redis: Any, until: Callable[[Callable[[], bool]], None]
) -> None:
    store = OnlineStore(own_redis.url, "films")
    store.write(VIEW, rows(["ann"]))
    assert store.read(VIEW, ["ann"]).status.tolist() == [PRESENT]
    own_redis.stop()
    started = time.perf_counter()
    found = store.read(VIEW, ["ann", "bo"])
    assert found.status.tolist() == [UNREACHABLE] * 2
    np.testing.assert_array_equal(found.filled(), [[0, 2.5], [0, 2.5]])
    for _ in range(100):
        assert store.read(VIEW, ["ann"]).status.tolist() == [UNREACHABLE]
    assert time.perf_counter() - started < 0.5
    assert store.counts.refused_reads > 90, "the circuit is open"
    with pytest.raises(ServiceError, match="Redis"):
        store.write(VIEW, rows(["ann"]))
    own_redis.start()
    until(lambda: store.read(VIEW, ["ann"]).status.tolist() == [MISSING])


def test_a_redis_that_restarted_between_two_reads_costs_no_read(own_redis: Any) -> None:
    store = OnlineStore(own_redis.url, "films")
    assert store.read(VIEW, ["ann"]).status.tolist() == [MISSING]
    own_redis.stop()
    own_redis.start()
    assert store.read(VIEW, ["ann"]).status.tolist() == [MISSING]


def test_a_redis_that_hangs_costs_a_read_its_budget_and_no_more(own_redis: Any) -> None:
    store = OnlineStore(own_redis.url, "films")
    store.write(VIEW, rows(["ann"]))
    assert store.read(VIEW, ["ann"]).status.tolist() == [PRESENT]
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    try:
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            assert store.read(VIEW, ["ann"]).status.tolist() == [UNREACHABLE]
            seconds.append(time.perf_counter() - started)
        assert sorted(seconds)[-4] < 0.01, "after three late answers nobody waits"
        assert sum(seconds) < 0.5
    finally:
        os.kill(own_redis.process.pid, signal.SIGCONT)


def test_the_breaker_lets_one_try_through_after_each_wait_and_doubles_it() -> None:
    now = [0.0]
    breaker = CircuitBreaker(lambda: now[0])
    breaker.failed(sure=False)
    breaker.failed(sure=False)
    assert breaker.allows(), "two late answers are tolerated"
    breaker.failed(sure=True)
    assert not breaker.allows()
    now[0] = 0.11
    assert breaker.allows()
    assert not breaker.allows(), "others wait for the try"
    breaker.failed(sure=True)
    now[0] = 0.25
    assert not breaker.allows()
    now[0] = 0.32
    assert breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(3))


def test_wrong_tables_and_addresses_are_refused_with_a_reason(redis_url: str) -> None:
    store = OnlineStore(redis_url, "films")
    with pytest.raises(DataError, match="country"):
        store.write(VIEW, rows(["ann"]).drop_columns(["country"]))
    with pytest.raises(DataError, match="event_time"):
        store.write(VIEW, rows(["ann"]).drop_columns(["event_time"]))
    with pytest.raises(DataError, match="user"):
        store.write(VIEW, rows(["ann"]).drop_columns(["user"]))
    with pytest.raises(ServiceError, match="address"):
        OnlineStore("http://127.0.0.1", "films")


def test_a_password_is_not_told() -> None:
    store = OnlineStore("redis://me:secret@127.0.0.1:1/0", "films")
    with pytest.raises(ServiceError) as caught:
        store.read_blobs(VIEW, ["ann"])
    assert "secret" not in str(caught.value)
