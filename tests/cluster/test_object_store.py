"""Sources in a real S3 store: found, known by a fingerprint that follows them, copied, and bounded by a window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from slipway.components.extract.objects import list_files
from slipway.components.extract.step import ExtractRequest
from slipway.components.extract.step import run as extract
from slipway.components.observe.step import ObserveRequest
from slipway.components.observe.step import run as observe
from slipway.components.progress import Progress
from slipway.contracts.errors import DataError, ServiceError

pytestmark = pytest.mark.cluster


def put(store: pafs.FileSystem, key: str, rows: list[tuple[str, str, datetime]]) -> None:
    users, items, times = zip(*rows, strict=True)
    table = pa.table({"user": users, "item": items, "timestamp": pa.array(times, pa.timestamp("us", "UTC"))})
    pq.write_table(table, key, filesystem=store)


def test_a_run_reads_what_the_store_holds_now(bucket: tuple[str, pafs.FileSystem], tmp_path: Path) -> None:
    name, store = bucket
    days = [datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 20, 31)]
    put(store, f"{name}/events/day=1/part.parquet", [("a", "1", days[0])])
    put(store, f"{name}/events/day=2/part.parquet", [("b", "2", days[1]), ("c", "3", days[2])])
    source = f"s3://{name}/events/"

    def seen() -> str:
        request = ObserveRequest(
            tables={"interactions": source},
            name="tiny",
            project_directory=tmp_path,
            window=timedelta(days=30),
            window_end="2026-01-31T00:00:00Z",
        )
        return observe(request, Progress()).data_fingerprint

    first = seen()
    assert seen() == first
    request = ExtractRequest(
        tables={"interactions": source},
        output=tmp_path / "tables",
        window_start=datetime(2026, 1, 1, tzinfo=UTC),
        window_end=datetime(2026, 1, 31, tzinfo=UTC),
    )
    assert extract(request, Progress()).metrics["interactions.files"] == 2
    kept = pq.read_table(tmp_path / "tables" / "interactions" / "interactions.parquet")
    assert sorted(kept["user"].to_pylist()) == ["a", "b"]
    put(store, f"{name}/events/day=3/part.parquet", [("d", "4", days[1])])
    assert seen() != first


def test_what_is_not_there_is_told_apart_from_what_does_not_answer(
    bucket: tuple[str, pafs.FileSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = bucket
    with pytest.raises(DataError, match="no Parquet or CSV object"):
        list_files(f"s3://{name}/nothing/", tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(ServiceError, match="does not answer"):
        list_files(f"s3://{name}/nothing/", tmp_path)
