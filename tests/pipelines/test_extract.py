"""Sources as a run finds them: copied, bounded by a window, and known by a fingerprint that changes with them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from slipway.components.extract.objects import copy_file, list_files
from slipway.components.extract.step import ExtractRequest
from slipway.components.extract.step import run as extract
from slipway.components.observe.step import ObserveRequest, parse_moment
from slipway.components.observe.step import run as observe
from slipway.components.progress import Progress
from slipway.components.validate.step import ValidateRequest
from slipway.components.validate.step import run as validate
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.data import DataSpec, InteractionsSpec
from slipway.contracts.errors import DataError, UsageError

END = datetime(2026, 1, 31, tzinfo=UTC)
ROWS = [("a", "1", "2026-01-30T23:59:59"), ("b", "2", "2026-01-31T00:00:00"), ("c", "3", "2026-01-01T00:00:00")]


def write_csv(folder: Path, name: str = "events.csv", extra: str = "") -> None:
    lines = "".join(f"{user},{item},{at}\n" for user, item, at in ROWS)
    (folder / name).write_text(f"user,item,timestamp\n{lines}{extra}")


def test_a_window_keeps_what_lies_in_it_and_what_has_no_time(tmp_path: Path) -> None:
    write_csv(tmp_path, extra="d,4,never\n")
    request = ExtractRequest(
        tables={"interactions": "events.csv"},
        output=tmp_path / "tables",
        base=tmp_path,
        interactions=InteractionsSpec(source="events.csv"),
        window_start=END - timedelta(days=7),
        window_end=END,
    )
    result = extract(request, Progress())
    users = pq.read_table(tmp_path / "tables" / "interactions" / "interactions.parquet")["user"].to_pylist()
    assert users == ["a", "d"], "the end is not part of the window; what cannot be read is for validation to count"
    assert result.metrics["interactions.rows"] == 2
    assert [entry.path for entry in read_manifest(tmp_path / "tables", verify=True).files] == [
        "interactions/interactions.parquet"
    ]


def test_a_window_without_data_is_told(tmp_path: Path) -> None:
    write_csv(tmp_path)
    late = {"window_start": END + timedelta(days=1), "window_end": END + timedelta(days=2)}
    with pytest.raises(DataError, match="holds no interaction"):
        extract(
            ExtractRequest(tables={"interactions": "events.csv"}, output=tmp_path / "t", base=tmp_path, **late),
            Progress(),
        )
    assert not (tmp_path / "t").exists()


def test_the_copy_is_validated_as_the_source_would_be(tmp_path: Path) -> None:
    write_csv(tmp_path)
    data = DataSpec.model_validate({"interactions": {"source": "events.csv"}})
    extract(
        ExtractRequest(tables={"interactions": "events.csv"}, output=tmp_path / "tables", base=tmp_path), Progress()
    )
    direct = validate(ValidateRequest(data=data, base=tmp_path, output=tmp_path / "one"), Progress())
    (tmp_path / "events.csv").unlink()
    copied = validate(
        ValidateRequest(data=data, base=tmp_path, tables=tmp_path / "tables", output=tmp_path / "two"), Progress()
    )
    assert direct.metrics == copied.metrics
    one, two = ((tmp_path / name / "interactions.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_fingerprint_follows_the_sources_and_the_window(tmp_path: Path) -> None:
    write_csv(tmp_path)

    def seen(**fields: object) -> str:
        content = {"tables": {"interactions": "events.csv"}, "base": tmp_path, "name": "tiny"}
        place = {"project_directory": tmp_path}
        return observe(ObserveRequest.model_validate(content | place | fields), Progress()).data_fingerprint

    first = seen()
    assert seen() == first
    window = {"window": "7d", "window_end": "2026-01-31T00:00:00Z"}
    assert seen(**window) == seen(**window) != first
    assert seen(window="7d", window_end="2026-01-31T01:00:00+01:00") == seen(**window)
    assert seen(window="7d", window_end="2026-02-01T00:00:00Z") != seen(**window)
    status = (tmp_path / "events.csv").stat()
    os.utime(tmp_path / "events.csv", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert seen() != first


def test_without_a_window_the_time_of_the_run_is_no_part_of_what_is_seen(tmp_path: Path) -> None:
    write_csv(tmp_path)
    request = ObserveRequest(
        tables={"interactions": "events.csv"}, base=tmp_path, name="tiny", project_directory=tmp_path
    )
    first, second = observe(request, Progress()), observe(request.model_copy(update={"window_end": "x"}), Progress())
    assert first == second
    assert (first.window_start, first.window_end, first.bundle) == ("", "", "")


def test_a_version_that_must_be_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no version of tiny has the alias 'champion'"):
        observe(ObserveRequest(name="tiny", project_directory=tmp_path, required=True), Progress())


def test_times_are_read_as_people_and_schedulers_write_them() -> None:
    expected = datetime(2026, 1, 31, 3, tzinfo=UTC)
    for text in ("20260131T030000Z", "2026-01-31T03:00:00Z", "2026-01-31T05:00:00+02:00", "2026-01-31T03:00:00"):
        assert parse_moment(text) == expected
    with pytest.raises(UsageError, match="is no time"):
        parse_moment("[[ScheduledTime]]")


@pytest.fixture
def store(tmp_path: Path) -> pafs.FileSystem:
    """An object store's file system on a folder: keys are paths, as pyarrow shows S3 too."""
    root = tmp_path / "store"
    for key in ("events/day=1/b.parquet", "events/day=1/a.parquet", "events/day=2/a.parquet", "events/_log/x.parquet"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"user": [key]}), root / key)
    (root / "events" / "readme.txt").write_text("no table")
    return pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("s3://events/", ["day=1/a.parquet", "day=1/b.parquet", "day=2/a.parquet"]),
        ("s3://events/day=*/a.parquet", ["day=1/a.parquet", "day=2/a.parquet"]),
        ("s3://events/day=1/b.parquet", ["b.parquet"]),
    ],
)
def test_objects_are_found_by_prefix_pattern_and_key(
    source: str, names: list[str], store: pafs.FileSystem, tmp_path: Path
) -> None:
    files = list_files(source, tmp_path, store)
    assert [file.name for file in files] == names
    for file in files:
        copy_file(source, file, tmp_path / "copy" / file.name, store)
        assert pq.read_table(tmp_path / "copy" / file.name)["user"].to_pylist() == [file.path]


def test_a_prefix_without_tables_is_told(store: pafs.FileSystem, tmp_path: Path) -> None:
    for source in ("s3://events/day=9/", "s3://nothing/", "s3://events/day=1/*.csv"):
        with pytest.raises(DataError, match="no Parquet or CSV object"):
            list_files(source, tmp_path, store)
