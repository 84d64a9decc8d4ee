"""One definition, three places: at label time, as latest value, and read from Redis, a feature has one value."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.components.featurize.step import FeaturizeRequest, run
from slipway.components.progress import Progress
from slipway.contracts.artifacts import write_artifact
from slipway.contracts.split import FeaturesSpec, SplitSpec
from slipway.feature_store.artifact import read_views
from slipway.feature_store.blobs import pack, unpack
from slipway.feature_store.columns import columns_of
from slipway.feature_store.engine import DuckDBEngine, values_expression
from slipway.feature_store.materialize import materialize
from slipway.feature_store.online import EXPIRED, MISSING, PRESENT, OnlineStore
from slipway.feature_store.views import BUILT_IN, load_views

pytestmark = pytest.mark.integration

DAY = 86_400_000_000


def events(seed: int, count: int = 400) -> pa.Table:
    generator = np.random.default_rng(seed)
    # A generator of whole days and few microseconds: many events tie.
    times = 1_600_000_000_000_000 + generator.integers(0, 80, count) * DAY + generator.integers(0, 2, count)
    table = pa.table(
        {
            "user": pa.array([f"u{n}" for n in generator.integers(0, 15, count)]),
            "item": pa.array([f"i{n}" for n in generator.integers(0, 30, count)]),
            "timestamp": pa.array(times, pa.timestamp("us")),
            "rating": generator.random(count) * 5,
        }
    )
    return table.sort_by([("user", "ascending"), ("timestamp", "ascending"), ("item", "ascending")])


@pytest.mark.parametrize("time_to_live", [None, timedelta(days=4, hours=12)])
def test_a_label_time_value_equals_the_latest_value_as_of_then_and_the_one_read_from_redis(
    tmp_path: Path, redis_url: str, time_to_live: timedelta | None
) -> None:
    with write_artifact(tmp_path / "dataset", kind="dataset", slipway_version="test") as draft:
        pq.write_table(events(1), draft.path / "interactions.parquet")
    split = SplitSpec(method="leave_last_out", minimum_users=1)
    spec = FeaturesSpec(time_to_live=time_to_live)
    request = FeaturizeRequest(dataset=tmp_path / "dataset", output=tmp_path / "features", split=split, features=spec)
    run(request, Progress())
    train, test = (pq.read_table(tmp_path / "features" / f"{part}.parquet") for part in ("train", "test"))

    # Label time: the held-out events as if they were rows to train on.
    both = pa.concat_tables([train, test.select(train.column_names)])
    order = np.lexsort((both.column("timestamp").to_numpy(), both.column("user").to_numpy(zero_copy_only=False)))
    held_out = order >= len(train)
    both = both.take(order)
    (user_activity,) = load_views(["user_activity"], spec.windows)
    with DuckDBEngine() as engine:
        engine.load(both)
        label_time = engine.values(user_activity, time_to_live=time_to_live).filter(pa.array(held_out))
    view = read_views(tmp_path / "features")[0]
    users = label_time.column("user").to_pylist()
    assert len(users) == 15

    store = OnlineStore(redis_url, "parity")
    rows = materialize(tmp_path / "features", store)
    assert rows["user_activity"] == len(pq.read_table(tmp_path / "features" / "latest_user_activity.parquet"))
    online = store.read(view, users)

    moments = np.zeros(len(users), dtype=np.int64)
    packed = unpack(view, pack(view, columns_of(view, label_time), event_time=moments, as_of=moments, written_at=0))
    expired = label_time.column("events").is_null().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(online.values, packed.values)
    statuses = set(online.status[expired].tolist()) if expired.any() else set()
    assert statuses <= {EXPIRED, MISSING}
    assert set(online.status[~expired].tolist()) == {PRESENT}
    assert expired.any() == (time_to_live is not None)


def test_values_do_not_depend_on_the_order_of_the_rows_nor_on_later_events() -> None:
    table = events(2)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    moment = 1_600_000_000_000_000 + 40 * DAY
    early = table.filter(pa.array(table.column("timestamp").cast(pa.int64()).to_numpy() < moment))
    moments = pa.table({"user": [f"u{n}" for n in range(15)], "time": [moment] * 15})
    results = []
    for content in (table, shuffled, early):
        content = content.append_column("weight", pa.array(np.ones(len(content))))
        with DuckDBEngine() as engine:
            engine.load(content)
            for view in load_views(["user_activity"], [timedelta(days=7)]):
                results.append(engine.values(view, moments).slice(len(content)).drop_columns(["moment"]).to_pandas())
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].columns, other.columns)
        for column in results[0].columns[1:]:
            np.testing.assert_allclose(results[0][column].astype(float), other[column].astype(float), rtol=1e-6)


def test_the_views_compile_for_spark_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler reads an option that only an installed Spark registers.
    options = SimpleNamespace(pyspark=SimpleNamespace(treat_nan_as_null=False))
    monkeypatch.setattr("ibis.backends.sql.compilers.pyspark.options", options)
    schema = {"user": "string", "item": "string", "time": "int64", "weight": "float64", "rating": "float64"}
    table = ibis.table(schema | {"moment": "int64"}, name="events")
    for function in BUILT_IN.values():
        expression = values_expression(function([timedelta(days=7)]), table, None, engine="pyspark")
        text = str(ibis.to_sql(expression, dialect="pyspark"))
        assert "RANGE BETWEEN" in text
        assert "COUNT(DISTINCT" not in text.upper()
