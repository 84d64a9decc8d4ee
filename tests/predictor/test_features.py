"""Features from a real Redis: read, missing, and away, and the answer says which."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from slipway.contracts.features import ViewSchema
from slipway.feature_store.online import OnlineStore
from slipway.models.families import load_model
from slipway.models.ranking import recommend

pytestmark = pytest.mark.integration

ARM = 'model="films",version="2"'


class RealRedis:
    def __init__(self, port: int, directory: Path) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def real_redis(port: Any, tmp_path: Path) -> Iterator[RealRedis]:
    server = RealRedis(port(), tmp_path)
    yield server
    server.stop()


def test_features_are_read_and_their_absence_is_said_counted_and_quick(
    start: Any, bundle_with_view: Path, view: ViewSchema, real_redis: RealRedis
) -> None:
    users = [str(user) for user in range(50)]
    values = np.random.default_rng(5).normal(size=(50, 2)).astype(np.float32)
    table = pa.table(
        {
            "user": users,
            "event_time": pa.array([datetime.now(UTC)] * 50, pa.timestamp("us", tz="UTC")),
            "events_7d": values[:, 0],
            "events_30d": values[:, 1],
        }
    )
    OnlineStore(real_redis.url, "films").write(view, table)
    model = load_model(bundle_with_view)

    with start(bundle_with_view, "--redis", real_redis.url) as running:
        _, answer = running.predict(*({"user": user} for user in users))
        predictions = answer["predictions"]
        assert {(one["features"], one["fallback"]) for one in predictions} == {("present", None)}
        expected = recommend(model, users, k=10, features={view.name: values})
        assert [one["items"] for one in predictions] == expected.items
        assert expected.items != recommend(model, users, k=10).items, "the features make no difference"

        _, answer = running.predict({"user": "1"}, {"user": "120"}, {"user": "nobody"})
        assert [(one["features"], one["fallback"]) for one in answer["predictions"]] == [
            ("present", None),
            ("default", "features_missing"),
            ("default", "unknown_user"),
        ]
        assert answer["predictions"][1]["items"] == recommend(model, ["120"], k=10).items[0]

        real_redis.stop()
        seconds = []
        for _ in range(100):
            started = time.perf_counter()
            status, answer = running.predict({"user": "1"})
            seconds.append(time.perf_counter() - started)
            assert status == 200
            assert answer["predictions"][0]["features"] == "unreachable"
            assert answer["predictions"][0]["fallback"] == "features_unreachable"
        assert float(np.percentile(seconds, 95)) < 0.05
        metrics = running.metrics()
    rows = 'slipway_feature_rows_total{model="films",status="%s",version="2",view="user_activity"}'
    assert metrics[rows % "missing"] >= 2
    assert metrics[rows % "unreachable"] == 100
    assert metrics['slipway_fallbacks_total{model="films",reason="features_unreachable",version="2"}'] == 100
    assert metrics['slipway_fallbacks_total{model="films",reason="unknown_user",version="2"}'] == 1
    assert metrics[f"slipway_feature_read_seconds_count{{{ARM}}}"] >= 102
