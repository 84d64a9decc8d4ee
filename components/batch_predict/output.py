"""A table that grows batch by batch and appears at its place only when it is whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from slipway.contracts.errors import EnvironmentProblemError, UsageError

SUFFIXES = (".parquet", ".csv")


class TableWriter:
    """Writes Parquet or CSV, by the suffix. Use it as a context: an exception leaves what was there before.

    Raises:
        UsageError: The suffix is neither.
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"a table cannot be written as {path.suffix or 'a file without suffix'}",
                where=str(path),
                remedy=f"End the name in {' or '.join(SUFFIXES)}.",
            )
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        self._schema = schema
        self._writer: Any = None
        self.rows = 0

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.suffix.lower() == ".csv":
                self._writer = pyarrow.csv.CSVWriter(self._partial, self._schema)
            else:
                self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        try:
            self._writer.write_table(table)
        except OSError as error:
            raise self._failed(error) from error
        self.rows += table.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
            if error is None:
                self._partial.replace(self._path)
        except OSError as problem:
            if error is None:
                raise self._failed(problem) from problem
        finally:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> EnvironmentProblemError:
        return EnvironmentProblemError(
            f"the table could not be written ({error.strerror or error})",
            where=str(self._path),
            remedy="Free space or change the rights of the folder; what was there before is unchanged.",
        )
