"""Validation: what fails is named with where and how many, and nothing is overwritten."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.components.progress import Progress
from slipway.components.validate.step import ValidateRequest, ValidateResult, inspect, run
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import DataError, UsageError, ValidationFailedError

NOW = datetime(2025, 6, 1, tzinfo=UTC)
GOOD = {
    "user": ["b", "a", "a", "c"],
    "item": ["x", "y", "x", "x"],
    "timestamp": [datetime(2025, 5, day) for day in (4, 3, 2, 1)],
    "rating": [1.0, 2.0, 3.0, 5.0],
}


def request(folder: Path, columns: dict[str, Any] | None = None, **data: Any) -> ValidateRequest:
    pq.write_table(pa.table(columns or GOOD), folder / "t.parquet")
    spec = {"interactions": {"source": "t.parquet", "columns": {"rating": "rating"}}, **data}
    return ValidateRequest.model_validate({"data": spec, "base": folder, "output": folder / "dataset", "now": NOW})


def validate(folder: Path, columns: dict[str, Any] | None = None, **data: Any) -> ValidateResult:
    return run(request(folder, columns, **data), Progress())


def failures(folder: Path, columns: dict[str, Any] | None = None, **data: Any) -> dict[tuple[str, str], int]:
    with pytest.raises(ValidationFailedError) as caught:
        validate(folder, columns, **data)
    assert not (folder / "dataset" / "manifest.json").exists()
    return {(row["check"], row["column"]): row["count"] for row in caught.value.failures}


def test_good_data_becomes_a_sorted_dataset_with_a_report(tmp_path: Path) -> None:
    result = validate(tmp_path)
    table = pq.read_table(tmp_path / "dataset" / "interactions.parquet")
    assert table["user"].to_pylist() == ["a", "a", "b", "c"]
    assert table.schema.field("timestamp").type == pa.timestamp("us")
    manifest = read_manifest(tmp_path / "dataset", kind="dataset", verify=True)
    assert manifest.rows == {"interactions.parquet": 4}
    assert manifest.time_range == ("2025-05-01T00:00:00", "2025-05-04T00:00:00")
    assert result.metrics == {"interactions": 4.0, "users": 3.0, "items": 2.0}
    assert json.loads((tmp_path / "dataset" / "report.json").read_text())["passed"] is True
    assert "All checks passed" in (tmp_path / "dataset" / "report.md").read_text()


def test_the_order_of_the_source_and_the_clock_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    first = validate(tmp_path).fingerprint
    later = request(tmp_path, {name: values[::-1] for name, values in GOOD.items()})
    later = later.model_copy(update={"now": datetime(2026, 1, 1, tzinfo=UTC), "threads": 1})
    assert run(later, Progress()).fingerprint == first


@pytest.mark.parametrize(
    ("column", "values", "failure"),
    [
        ("user", ["a", None, "", "c"], {("nulls", "user"): 2}),
        ("item", [1.0, 1.5, 2.0, 3.0], {("type", "item"): 1}),
        ("timestamp", ["2025-05-01", "yesterday", "?", "2025-05-01T00:00:00Z"], {("type", "timestamp"): 2}),
        (
            "timestamp",
            [datetime(2025, 5, day) for day in (1, 2, 3)] + [datetime(2025, 6, 2)],
            {("future", "timestamp"): 1},
        ),
        ("rating", [1.0, float("nan"), float("inf"), 2.0], {("not a number", "rating"): 2}),
        ("rating", [1.0, None, None, None], {("nulls", "rating"): 3}),
        ("rating", ["1", "two", "3.5", "4"], {("type", "rating"): 1}),
    ],
)
def test_a_bad_value_is_counted_under_its_own_check(
    tmp_path: Path, column: str, values: list[Any], failure: dict[tuple[str, str], int]
) -> None:
    assert failures(tmp_path, GOOD | {column: values}) == failure


def test_ranges_are_inclusive(tmp_path: Path) -> None:
    assert failures(tmp_path, checks={"ranges": {"rating": [2, 3]}}) == {("range", "rating"): 2}


def test_a_null_share_within_its_limit_passes_and_above_it_fails(tmp_path: Path) -> None:
    columns = GOOD | {"rating": [1.0, None, 3.0, 4.0]}
    validate(tmp_path, columns, checks={"maximum_null_share": {"rating": 0.25}})
    (tmp_path / "strict").mkdir()
    assert failures(tmp_path / "strict", columns, checks={"maximum_null_share": {"rating": 0.2}}) == {
        ("nulls", "rating"): 1
    }


def test_stale_data_and_too_few_rows_fail(tmp_path: Path) -> None:
    found = failures(tmp_path, checks={"freshness": "7d", "minimum_rows": 10})
    assert found == {("freshness", "timestamp"): 1, ("minimum rows", "interactions"): 6}


def test_an_empty_table_fails_by_its_rows(tmp_path: Path) -> None:
    empty = {name: pa.array([], pa.string()) for name in GOOD}
    assert failures(tmp_path, empty) == {("minimum rows", "interactions"): 1}


def test_a_minimum_rating_that_leaves_nothing_fails(tmp_path: Path) -> None:
    interactions = {"source": "t.parquet", "columns": {"rating": "rating"}, "minimum_rating": 6}
    assert failures(tmp_path, interactions=interactions) == {("minimum rows", "interactions"): 1}


DUPLICATED = {name: [*values, values[0]] for name, values in GOOD.items()}


def test_duplicates_are_refused_dropped_or_allowed(tmp_path: Path) -> None:
    assert failures(tmp_path, DUPLICATED) == {("duplicates", "user, item, timestamp"): 1}
    assert validate(tmp_path, DUPLICATED, checks={"duplicates": "drop"}).metrics["interactions"] == 4
    allowed = validate(tmp_path, DUPLICATED, checks={"duplicates": "allow"})
    assert allowed.metrics["interactions"] == 5
    assert "1 repeated rows" in allowed.warnings[0]


def test_the_duplicate_that_is_kept_does_not_depend_on_the_order_of_the_source(tmp_path: Path) -> None:
    columns = DUPLICATED | {"rating": [1.0, 2.0, 3.0, 5.0, 4.0]}
    kept = []
    for order in (columns, {name: values[::-1] for name, values in columns.items()}):
        validate(tmp_path, order, checks={"duplicates": "drop"})
        kept.append(pq.read_table(tmp_path / "dataset" / "interactions.parquet")["rating"].to_pylist())
    assert kept[0] == kept[1]
    assert 4.0 in kept[0]


def test_a_failure_leaves_the_old_dataset_and_writes_its_report_beside(tmp_path: Path) -> None:
    validate(tmp_path)
    before = read_manifest(tmp_path / "dataset", verify=True).fingerprint
    with pytest.raises(ValidationFailedError, match=r"rating: 1 of 4 rows in t\.parquet, such as row 2") as caught:
        validate(tmp_path, GOOD | {"rating": [1.0, float("nan"), 3.0, 4.0]})
    assert read_manifest(tmp_path / "dataset", verify=True).fingerprint == before
    report = json.loads((tmp_path / "dataset.report.json").read_text())
    assert report["passed"] is False
    assert report["failures"] == list(caught.value.failures)
    assert "not a number" in (tmp_path / "dataset.report.md").read_text()
    validate(tmp_path)
    assert not (tmp_path / "dataset.report.json").exists()


def test_the_file_with_the_bad_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table(GOOD), tmp_path / "parts" / "good.parquet")
    bad = GOOD | {"user": ["d", "e", "f", None]}
    pq.write_table(pa.table(bad), tmp_path / "parts" / "bad.parquet")
    with pytest.raises(ValidationFailedError) as caught:
        validate(tmp_path, interactions={"source": "parts", "columns": {"rating": "rating"}})
    assert caught.value.failures[0]["where"] == "bad.parquet (1)"


def test_items_and_users_are_checked_and_kept(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,year,title\nx,1999,Ax\ny,2001,\nz,2005,Zed\n")
    pq.write_table(pa.table({"user": ["a", "b"], "age": [30, 40], "zip": ["1", "2"]}), tmp_path / "users.parquet")
    items = {"source": "items.csv", "columns": {"item": "id"}}
    users = {"source": "users.parquet", "attributes": ["age"]}
    result = validate(tmp_path, items=items, users=users, checks={"ranges": {"items.year": [1990, None]}})
    kept = pq.read_table(tmp_path / "dataset" / "items.parquet")
    assert kept.to_pylist()[1] == {"item": "y", "year": 2001, "title": None}
    assert pq.read_table(tmp_path / "dataset" / "users.parquet").column_names == ["user", "age"]
    assert result.warnings == ("1 users of the interactions are not in the users table",)


def test_bad_items_fail_by_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,year\nx,1999\nx,1980\n,2001\n")
    checks = {"ranges": {"items.year": [1990, None]}}
    assert failures(tmp_path, items={"source": "items.csv"}, checks=checks) == {
        ("nulls", "items.item"): 1,
        ("range", "items.year"): 1,
        ("duplicates", "items.item"): 1,
    }


@pytest.mark.parametrize(
    "checks",
    [
        {"ranges": {"raiting": [1, 5]}},
        {"ranges": {"items.year": [1, 5]}},
        {"maximum_null_share": {"stars": 0.5}},
        {"ranges": {"user": [1, 5]}},
    ],
)
def test_a_check_of_a_column_that_is_not_there_is_a_mistake_of_use(tmp_path: Path, checks: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        validate(tmp_path, checks=checks)


def test_a_missing_column_stops_at_once(tmp_path: Path) -> None:
    columns = {"user_id": GOOD["user"], "item": GOOD["item"], "timestamp": GOOD["timestamp"], "rating": GOOD["rating"]}
    with pytest.raises(DataError, match="Did you mean 'user_id'"):
        validate(tmp_path, columns)


def test_inspecting_writes_nothing(tmp_path: Path) -> None:
    wanted = request(tmp_path, GOOD | {"user": [None, "a", "b", "c"]})
    assert inspect(wanted, Progress()).passed is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet"]


def test_a_csv_value_of_the_wrong_type_far_down_is_found_with_its_row(tmp_path: Path) -> None:
    lines = [f"{row % 50},{row},{1_700_000_000 + row},{row % 5}" for row in range(30_000)]
    lines[29_000] = "7,29000,not-a-time,3"
    (tmp_path / "t.csv").write_text("\n".join(["user,item,timestamp,rating", *lines]))
    with pytest.raises(ValidationFailedError, match="row 29,001: timestamp='not-a-time'"):
        validate(tmp_path, interactions={"source": "t.csv"})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text(min_size=0, max_size=3).filter(lambda text: "\x00" not in text)),
            st.one_of(st.none(), st.floats(width=32)),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_counts_equal_a_plain_count_of_the_rows(tmp_path: Path, rows: list[tuple[str | None, float | None]]) -> None:
    columns = {
        "user": pa.array([user for user, _ in rows], pa.string()),
        "item": pa.array([f"i{row}" for row in range(len(rows))]),
        "timestamp": pa.array([datetime(2025, 1, 1)] * len(rows)),
        "rating": pa.array([rating for _, rating in rows], pa.float64()),
    }
    report = inspect(request(tmp_path, columns, checks={"ranges": {"rating": [0, 5]}}), Progress())
    counted = {(outcome.check, outcome.column): outcome.count for outcome in report.tables[0].checks}
    ratings = [rating for _, rating in rows if rating is not None]
    finite = [rating for rating in ratings if abs(rating) < float("inf")]
    assert counted["nulls", "user"] == sum(not user for user, _ in rows)
    assert counted["nulls", "rating"] == len(rows) - len(ratings)
    assert counted["not a number", "rating"] == len(ratings) - len(finite)
    assert counted["range", "rating"] == sum(not 0 <= rating <= 5 for rating in finite)
