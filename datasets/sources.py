"""Where a table comes from: Parquet and CSV files, folders, globs, and samples of installed packages.

A source is opened, not loaded: its columns are known, its rows are read by DuckDB when a query asks for them, so a
table may be larger than memory. CSV values stay text until a column's meaning is known: ids keep their leading zeros,
and a value of the wrong type is counted by validation instead of ending the read.
"""

# ruff: noqa: S608 - names and paths are quoted by quote() and literal(); the database is the caller's own process

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from slipway.contracts.errors import DataError
from slipway.datasets import samples

PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst")
FILE_COLUMN = "slipway_source_file"


def connect(
    *, memory_limit: str = "2GB", temporary: Path | None = None, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Returns a DuckDB in memory that spills to disk beyond `memory_limit` and reads naive times as UTC.

    Args:
        memory_limit: As DuckDB writes sizes, such as "2GB".
        temporary: Folder for what does not fit; DuckDB's own default without one.
        threads: Number of threads; all cores without one.
    """
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET memory_limit = ?", [memory_limit])
    connection.execute("SET enable_progress_bar = false")
    if temporary is not None:
        connection.execute("SET temp_directory = ?", [str(temporary)])
    if threads is not None:
        connection.execute(f"SET threads = {int(threads)}")
    return connection


def quote(name: str) -> str:
    """Returns a column name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Returns a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class SourceTable:
    """An opened table.

    `columns` maps each column to its DuckDB type; for CSV files these are guesses from the first rows, and the values
    themselves come as text (`textual`). `files` is empty for a sample.
    """

    source: str
    columns: dict[str, str]
    files: tuple[Path, ...] = ()
    textual: bool = False
    _scan: str = field(default="", repr=False)
    _table: pa.Table | None = field(default=None, repr=False)

    def view(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Makes the table readable in `connection` as `name`, with the file of each row as column FILE_COLUMN."""
        scan = self._scan
        if self._table is not None:
            scan = quote(f"{name}_in_memory")
            connection.register(f"{name}_in_memory", self._table)
        file = "filename" if self.files and "filename" not in self.columns else "NULL::VARCHAR"
        connection.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT *, {file} AS {FILE_COLUMN} FROM {scan}")

    def type_of(self, column: str) -> str:
        """Returns the type in which the values of a column come."""
        return "VARCHAR" if self.textual else self.columns[column]

    def require(self, column: str, *, meaning: str) -> None:
        """Raises a DataError that names the columns there are, unless `column` is one of them."""
        if column not in self.columns:
            raise missing_column(column, self.columns, where=self.source, meaning=meaning)


def missing_column(column: str, present: Collection[str], *, where: str, meaning: str) -> DataError:
    """Returns the error for an absent column: what there is instead, and the nearest name."""
    lowered = {name.lower(): name for name in present}
    near = difflib.get_close_matches(column.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"Did you mean {lowered[near[0]]!r}? " if near else ""
    return DataError(
        f"there is no column {column!r} (for {meaning}); the columns are {', '.join(map(repr, present)) or 'none'}",
        where=where,
        remedy=f"{hint}Name the right column in the project file.",
    )


def open_source(source: str, base: Path) -> SourceTable:
    """Opens a table.

    Args:
        source: `samples://...`, or a Parquet or CSV file, a folder of them, or a glob; relative to `base`.
        base: Folder of the project file.

    Raises:
        DataError: There is no such file, it is empty, or it cannot be read as what its name says.
        UsageError: There is no such sample.
        EnvironmentProblemError: The package that holds the sample is not installed.
    """
    if source.startswith(samples.PREFIX):
        table = samples.open_sample(source)
        return SourceTable(source, _columns_of(duckdb.connect(), table), _table=table)
    if "://" in source:
        scheme = source.partition("://")[0]
        raise DataError(
            f"{scheme}:// cannot be read by this version",
            where=source,
            remedy="Copy the table to a folder and name that; samples:// names the bundled samples.",
        )
    files = _find_files(source, base)
    for file in files:
        if file.stat().st_size == 0:
            raise DataError(
                "the file is empty (0 bytes)", where=str(file), remedy="Write the table again, or remove the file."
            )
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise DataError(
            "Parquet and CSV files are mixed",
            where=source,
            remedy="Keep one kind, or name it by a glob: folder/*.parquet.",
        )
    return _open_parquet(source, files) if kinds == {"parquet"} else _open_csv(source, files)


def _find_files(source: str, base: Path) -> tuple[Path, ...]:
    path = base / Path(source).expanduser()
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file()
            and _kind(file) is not None
            and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        ]
        if not files:
            raise DataError(
                "the folder holds no Parquet or CSV file",
                where=str(path),
                remedy=f"Files must end in {', '.join(PARQUET_SUFFIXES + CSV_SUFFIXES)}.",
            )
        return tuple(files)
    if path.is_file():
        if _kind(path) is None:
            raise DataError(
                f"files of this kind ({path.suffix or 'no suffix'}) cannot be read",
                where=str(path),
                remedy=f"Use a file that ends in {', '.join(PARQUET_SUFFIXES + CSV_SUFFIXES)}.",
            )
        return (path,)
    found = glob.glob(str(path), recursive=True) if glob.has_magic(source) else []  # noqa: PTH207 - may be absolute
    matches = [Path(name) for name in sorted(found)]
    files = [file for file in matches if file.is_file() and _kind(file) is not None]
    if files:
        return tuple(files)
    raise DataError(
        "there is no such file" if not matches else "no Parquet or CSV file matches",
        where=str(path),
        remedy=_nearby(path),
    )


def _nearby(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either; paths are relative to the project file."
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else "Paths are relative to the project file."


def _kind(file: Path) -> str | None:
    name = file.name.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return "parquet"
    return "csv" if name.endswith(CSV_SUFFIXES) else None


def _open_parquet(source: str, files: tuple[Path, ...]) -> SourceTable:
    scan = f"read_parquet({_arguments(files)})"
    return SourceTable(source, _describe(scan, files, "Parquet"), files, _scan=scan)


def _open_csv(source: str, files: tuple[Path, ...]) -> SourceTable:
    guessed = _describe(f"read_csv({_arguments(files)})", files, "CSV")
    scan = f"read_csv({_arguments(files)}, all_varchar = true)"
    return SourceTable(source, guessed, files, textual=True, _scan=scan)


def _arguments(files: tuple[Path, ...]) -> str:
    # DuckDB takes each name for a glob; a bracket of its own stands for itself.
    names = ", ".join(literal(re.sub(r"([*?\[])", r"[\1]", str(file))) for file in files)
    return f"[{names}], union_by_name = true" + (", hive_partitioning = true" if _partitioned(files) else "")


def _partitioned(files: tuple[Path, ...]) -> bool:
    return any("=" in file.parent.name for file in files)


def _describe(scan: str, files: tuple[Path, ...], kind: str) -> dict[str, str]:
    connection = connect()
    try:
        return _columns_of(connection, scan)
    except duckdb.Error as error:
        raise unreadable(error, where=str(files[0]) if len(files) == 1 else f"{files[0].parent}", kind=kind) from error
    finally:
        connection.close()


def unreadable(error: duckdb.Error, *, where: str, kind: str = "table") -> DataError:
    """Returns the error for a file that DuckDB cannot read, with the first line of its reason."""
    reason = str(error).strip().splitlines()[0]
    return DataError(
        f"the file cannot be read as {kind} ({reason})", where=where, remedy="Write the table again, or name another."
    )


def _columns_of(connection: duckdb.DuckDBPyConnection, source: str | pa.Table) -> dict[str, str]:
    if isinstance(source, str):
        relation = connection.execute(f"DESCRIBE SELECT * FROM {source}")
    else:
        connection.register("described", source)
        relation = connection.execute("DESCRIBE SELECT * FROM described")
    return {row[0]: row[1] for row in relation.fetchall()}
