"""Where tables come from, and what is said when they do not."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.contracts.errors import DataError, UsageError
from slipway.datasets.sources import connect, open_source

TABLE = pa.table({"user": ["a", "b"], "value": [1, 2]})


def rows_of(source: str, base: Path) -> list[tuple[object, ...]]:
    table = open_source(source, base)
    with connect() as connection:
        table.view(connection, "source")
        columns = ", ".join(f'"{name}"' for name in table.columns)
        return connection.execute(f"SELECT {columns} FROM source ORDER BY ALL").fetchall()


def test_a_parquet_file_is_read_relative_to_the_project(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    assert rows_of("t.parquet", tmp_path) == [("a", 1), ("b", 2)]


def test_a_folder_is_read_whole_and_its_partitions_are_columns(tmp_path: Path) -> None:
    for day in ("2025-01-01", "2025-01-02"):
        (tmp_path / "events" / f"date={day}").mkdir(parents=True)
        pq.write_table(TABLE, tmp_path / "events" / f"date={day}" / "part.parquet")
    (tmp_path / "events" / "_SUCCESS").touch()
    assert len(rows_of("events", tmp_path)) == 4
    assert "date" in open_source("events", tmp_path).columns


def test_a_glob_takes_the_files_that_match(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        pq.write_table(TABLE, tmp_path / f"{name}.parquet")
    assert len(rows_of("a*.parquet", tmp_path)) == 4


def test_a_bracket_in_a_file_name_stands_for_itself(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t[1].parquet")
    assert len(rows_of("t[1].parquet", tmp_path)) == 2


def test_csv_ids_keep_their_leading_zeros(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,value\n007,1\n008,2\n")
    assert rows_of("t.csv", tmp_path)[0][0] == "007"


def test_columns_missing_from_one_file_are_null_there(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE.drop_columns(["value"]), tmp_path / "b.parquet")
    assert rows_of("*.parquet", tmp_path) == [("a", 1), ("a", None), ("b", 2), ("b", None)]


def test_the_film_ratings_come_with_their_licence_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.datasets.samples._told", set())
    assert len(rows_of("samples://movielens-small", Path())) == 100_004
    assert list(open_source("samples://movielens-small/items", Path()).columns) == [
        "movieId",
        "title",
        "year",
        "genres",
    ]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("non-commercial") == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.parquet", "there is no such file"),
        ("nowhere/*.parquet", "nowhere does not exist"),
        ("empty.csv", r"empty \(0 bytes\)"),
        ("empty.parquet", r"empty \(0 bytes\)"),
        ("text.parquet", "cannot be read as Parquet"),
        ("notes.txt", "files of this kind"),
        ("folder", "holds no Parquet or CSV file"),
        ("s3://bucket/key", "cannot be read by this version"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("no parquet at all, but long enough to have a footer")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=message):
        open_source(source, tmp_path)


def test_a_misspelled_file_is_told_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"Did you mean 'ratings\.csv'"):
        open_source("rating.csv", tmp_path)


def test_an_unknown_sample_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="samples://movielens-small"):
        open_source("samples://netflix", Path())


def test_mixed_kinds_in_a_folder_are_refused(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("user,value\nc,3\n")
    with pytest.raises(DataError, match="mixed"):
        open_source(".", tmp_path)


def test_a_truncated_parquet_file_is_refused_without_a_traceback_of_the_database(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        open_source("t.parquet", tmp_path)
    assert isinstance(caught.value.__cause__, duckdb.Error)
    assert "\n" not in str(caught.value)
