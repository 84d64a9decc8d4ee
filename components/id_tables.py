"""Tables of user and item ids, read in batches whatever their size: CSV or Parquet, ids of any type that can be one."""

# ruff: noqa: S608 - names are quoted by quote(); the database is this process's own

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from slipway.contracts.errors import DataError
from slipway.datasets.interactions import MEANINGS, id_expression, wrong_type
from slipway.datasets.sources import connect, open_source, quote, unreadable


class IdTable:
    """A table of which only id columns are read, as text, in the order of its rows.

    Args:
        source: A file, folder or glob.
        base: Folder that `source` is relative to.
        names: Our name -> the names that the column may have there, the first found is taken.
        optional: Our names that need not be there.

    Raises:
        DataError: The table or a column is absent, or a column cannot hold ids.
    """

    def __init__(
        self, source: str, base: Path, names: Mapping[str, Sequence[str]], *, optional: Sequence[str] = ()
    ) -> None:
        self.source = source
        self._table = open_source(source, base)
        self._columns: dict[str, str] = {}
        for ours, candidates in names.items():
            theirs = next((name for name in candidates if name in self._table.columns), None)
            if theirs is None:
                if ours in optional:
                    continue
                self._table.require(candidates[0], meaning=MEANINGS[ours])
                raise AssertionError("unreachable")
            kind = self._table.type_of(theirs)
            expression = id_expression(quote(theirs), kind)
            if expression is None:
                raise wrong_type(theirs, kind, meaning=MEANINGS[ours], where=source)
            self._columns[ours] = expression

    @property
    def columns(self) -> tuple[str, ...]:
        """Our names of the columns that are there."""
        return tuple(self._columns)

    def count(self) -> int:
        """Returns the number of rows."""
        return int(self._query("SELECT count(*) AS n FROM source").read_all().column("n")[0].as_py())

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yields batches of at most `rows` rows, columns by our names, all text.

        Raises:
            DataError: An id is null or is none.
        """
        selected = ", ".join(f"{expression} AS {quote(ours)}" for ours, expression in self._columns.items())
        start = 0
        for batch in self._query(f"SELECT {selected} FROM source", rows):
            for name in batch.schema.names:
                column = batch.column(name)
                if column.null_count:
                    position = start + column.is_null().to_numpy(zero_copy_only=False).argmax()
                    raise DataError(
                        f"row {position + 1:,} has no {name}, or one that is no id",
                        where=self.source,
                        remedy="Remove such rows, or write ids as text or whole numbers.",
                    )
            start += batch.num_rows
            if batch.num_rows:
                yield batch

    def read(self) -> pa.Table:
        """Returns the whole table."""
        schema = pa.schema([(name, pa.string()) for name in self._columns])
        return pa.Table.from_batches([batch.cast(schema) for batch in self.batches(100_000)], schema)

    def _query(self, query: str, rows: int = 100_000) -> Any:
        import duckdb

        connection = connect(memory_limit="1GB", threads=1)
        try:
            self._table.view(connection, "source")
            return connection.sql(query).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise unreadable(error, where=self.source) from error
