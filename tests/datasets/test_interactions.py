"""Any table of who did what when, in one shape."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.contracts.data import InteractionsSpec
from slipway.contracts.errors import DataError
from slipway.datasets.interactions import load_interactions

MOMENT = datetime(2025, 3, 4, 5, 6, 7)
EPOCH = int(MOMENT.replace(tzinfo=UTC).timestamp())


def load(tmp_path: Path, values: dict[str, Any], **spec: Any) -> pa.Table:
    pq.write_table(pa.table(values), tmp_path / "t.parquet")
    return load_interactions(InteractionsSpec.model_validate({"source": "t.parquet", **spec}), tmp_path)


def one(tmp_path: Path, **values: Any) -> dict[str, Any]:
    row = {"user": "a", "item": "x", "timestamp": MOMENT} | values
    table = load(tmp_path, {name: value if isinstance(value, pa.Array) else [value] for name, value in row.items()})
    first: dict[str, Any] = table.to_pylist()[0]
    return first


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("u-1", "u-1"),
        (17, "17"),
        (pa.array([2**63], pa.uint64()), str(2**63)),
        (17.0, "17"),
        (Decimal("17"), "17"),
        (pa.array(["k"]).dictionary_encode(), "k"),
        (17.5, None),
        ("", None),
    ],
)
def test_ids_become_text(tmp_path: Path, value: Any, text: str | None) -> None:
    assert one(tmp_path, user=value)["user"] == text


@pytest.mark.parametrize(
    "value",
    [
        MOMENT,
        MOMENT.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5))),
        EPOCH,
        float(EPOCH),
        str(EPOCH),
        "2025-03-04T05:06:07",
        "2025-03-04T05:06:07Z",
        "2025-03-04 07:06:07+02:00",
        pa.array([MOMENT], pa.timestamp("ns")),
        pa.array([MOMENT], pa.timestamp("s")),
        pa.array([MOMENT.replace(tzinfo=UTC)], pa.timestamp("us", tz="Asia/Tokyo")),
    ],
)
def test_times_become_microseconds_in_utc(tmp_path: Path, value: Any) -> None:
    assert one(tmp_path, timestamp=value)["timestamp"] == MOMENT


def test_a_date_is_its_midnight(tmp_path: Path) -> None:
    assert one(tmp_path, timestamp=date(2025, 3, 4))["timestamp"] == datetime(2025, 3, 4)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_integers_count_the_unit_that_the_project_names(tmp_path: Path, unit: str, factor: int) -> None:
    table = load(tmp_path, {"user": [1], "item": [2], "timestamp": [EPOCH * factor]}, timestamp_unit=unit)
    assert table["timestamp"].to_pylist() == [MOMENT]


def test_a_time_out_of_all_bounds_is_null_not_an_error(tmp_path: Path) -> None:
    assert one(tmp_path, timestamp=2**62)["timestamp"] is None


def test_columns_are_found_by_the_names_of_their_owner(tmp_path: Path) -> None:
    table = load(
        tmp_path,
        {"who": ["b", "a"], "what": [1, 2], "when": [MOMENT, MOMENT], "stars": [4.5, None], "part": [True, False]},
        columns={"user": "who", "item": "what", "timestamp": "when", "rating": "stars", "split": "part"},
    )
    assert table.column_names == ["user", "item", "timestamp", "rating", "split"]
    assert table.to_pylist()[0] == {"user": "a", "item": "2", "timestamp": MOMENT, "rating": None, "split": "false"}


def test_rows_are_sorted_whatever_their_order(tmp_path: Path) -> None:
    users, items, times = ["b", "a", "a", "10", "9"], ["x", "y", "x", "x", "x"], [1, 2, 2, 3, 4]
    table = load(tmp_path, {"user": users, "item": items, "timestamp": times})
    assert list(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True)) == [
        ("10", "x"),
        ("9", "x"),
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
    ]


def test_a_minimum_rating_keeps_the_positives(tmp_path: Path) -> None:
    values = {"user": ["a", "b", "c"], "item": [1, 2, 3], "timestamp": [1, 2, 3], "rating": [3.0, 4.0, None]}
    table = load(tmp_path, values, columns={"rating": "rating"}, minimum_rating=4)
    assert table["user"].to_pylist() == ["b"]


def test_a_missing_column_names_what_there_is_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'user' .*'users'.*Did you mean 'users'"):
        load(tmp_path, {"users": [1], "item": [1], "timestamp": [1]})


@pytest.mark.parametrize("column", ["user", "timestamp"])
def test_a_type_that_can_never_fit_is_refused_at_once(tmp_path: Path, column: str) -> None:
    with pytest.raises(DataError, match=f"'{column}' has type INTEGER\\[\\]|'{column}' has type BIGINT\\[\\]"):
        load(tmp_path, {"user": [1], "item": [1], "timestamp": [1]} | {column: [[1, 2]]})
