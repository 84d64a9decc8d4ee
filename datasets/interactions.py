"""Interactions in the one shape that every later step reads.

Canonical columns: `user` and `item` (text), `timestamp` (microseconds, UTC), and those of `rating`, `weight` (float64),
`session`, `split` (text) that the project file names. Rows are sorted by user, timestamp, item.
"""

# ruff: noqa: S608 - names are quoted by quote(); the database is the caller's own process

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from slipway.contracts.data import InteractionsSpec
from slipway.contracts.errors import DataError
from slipway.datasets.sources import SourceTable, connect, open_source, quote

MEANINGS = {
    "user": "the user's id",
    "item": "the item's id",
    "timestamp": "the event's time",
    "rating": "the rating",
    "weight": "the weight of an interaction",
    "session": "the session's id",
    "split": "the part of the split that a row belongs to",
}
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
_INTEGERS.add("UHUGEINT")
_FLOATS = {"FLOAT", "DOUBLE"}
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


def typed_columns(table: SourceTable, spec: InteractionsSpec) -> dict[str, str]:
    """Returns {canonical name: SQL expression over the source's columns}.

    An expression gives NULL both for a null and for a value that is not of the type; validation tells them apart.

    Raises:
        DataError: A column is absent, or of a type that can never hold what it should.
    """
    chosen = spec.columns.chosen()
    for ours, theirs in chosen.items():
        table.require(theirs, meaning=MEANINGS[ours])
    expressions = {}
    for ours, theirs in chosen.items():
        kind = table.type_of(theirs)
        if ours == "timestamp":
            expression = time_expression(quote(theirs), kind, spec.timestamp_unit)
        elif ours in ("rating", "weight"):
            expression = number_expression(quote(theirs), kind)
        elif ours == "split" and kind == "BOOLEAN":
            expression = f"CAST({quote(theirs)} AS VARCHAR)"
        else:
            expression = id_expression(quote(theirs), kind)
        if expression is None:
            raise wrong_type(theirs, kind, meaning=MEANINGS[ours], where=table.source)
        expressions[ours] = expression
    return expressions


def wrong_type(column: str, kind: str, *, meaning: str, where: str) -> DataError:
    """Returns the error for a column whose type can never hold what it should."""
    return DataError(
        f"the column {column!r} has type {kind}, which cannot be read as {meaning}",
        where=where,
        remedy="Ids are text or whole numbers; times are timestamps, dates, ISO 8601 texts or numbers since 1970; "
        "ratings and weights are numbers.",
    )


def id_expression(column: str, kind: str) -> str | None:
    """Returns SQL for an id as text: whole numbers in decimal, empty text as null; None if the type cannot be an id."""
    if kind == "VARCHAR" or kind.startswith("ENUM") or kind == "UUID":
        return f"nullif(CAST({column} AS VARCHAR), '')"
    if kind in _INTEGERS:
        return f"CAST({column} AS VARCHAR)"
    if kind in _FLOATS or kind.startswith("DECIMAL"):
        # Integers become floats when a table with gaps passes through pandas; beyond 2^53 they are no longer exact.
        whole = f"{column} = floor({column}) AND abs({column}) <= 9007199254740992"
        return f"CASE WHEN {whole} THEN CAST(TRY_CAST({column} AS BIGINT) AS VARCHAR) END"
    return None


def number_expression(column: str, kind: str) -> str | None:
    """Returns SQL for a float64, NaN kept; None if the type cannot be a number."""
    if kind in ("VARCHAR", "BOOLEAN") or is_number(kind):
        return f"TRY_CAST({column} AS DOUBLE)"
    return None


def is_number(kind: str) -> bool:
    """Returns whether a DuckDB type holds numbers."""
    return kind in _INTEGERS or kind in _FLOATS or kind.startswith("DECIMAL")


def time_expression(column: str, kind: str, unit: str) -> str | None:
    """Returns SQL for a naive timestamp in UTC; None if the type cannot be a time."""
    factor = 1_000_000 // _PER_SECOND[unit]
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        # A zone is resolved by the session's TimeZone, which sources.connect() sets to UTC.
        value = f"CAST({column} AS TIMESTAMP)"
    elif kind in _INTEGERS:
        value = f"TRY(make_timestamp(CAST({column} AS BIGINT) * {factor}))"
    elif kind in _FLOATS or kind.startswith("DECIMAL"):
        value = f"TRY(make_timestamp(CAST(round({column} * {factor}) AS BIGINT)))"
    elif kind == "VARCHAR":
        value = (
            f"coalesce(TRY(make_timestamp(TRY_CAST({column} AS BIGINT) * {factor})), "
            f"CAST(TRY_CAST({column} AS TIMESTAMPTZ) AS TIMESTAMP))"
        )
    else:
        return None
    return f"CASE WHEN isfinite({value}) THEN {value} END"


def canonical_query(table: SourceTable, spec: InteractionsSpec, view: str, *, drop_duplicates: bool = False) -> str:
    """Returns SQL for the canonical table, sorted.

    Args:
        table: The opened source, readable as `view`.
        spec: Which columns to take, and the lowest rating to keep.
        view: Name of the source's view.
        drop_duplicates: Keep one row of those with the same user, item and timestamp (the one that comes last in the
            order of its other columns, nulls before values).
    """
    expressions = typed_columns(table, spec)
    columns = ", ".join(f"{expression} AS {quote(name)}" for name, expression in expressions.items())
    query = f"SELECT {columns} FROM {quote(view)}"
    others = [quote(name) for name in expressions if name not in ("user", "item", "timestamp")]
    if drop_duplicates:
        last = ", ".join(f"{name} DESC NULLS LAST" for name in others)
        order = f' ORDER BY "user", item, "timestamp", {last}' if others else ""
        query = f'SELECT DISTINCT ON ("user", item, "timestamp") * FROM ({query}){order}'
    if spec.minimum_rating is not None:
        query = f"SELECT * FROM ({query}) WHERE rating >= {spec.minimum_rating!r}"
    order = ", ".join(['"user"', '"timestamp"', "item", *others])
    return f"SELECT * FROM ({query}) ORDER BY {order}"


def load_interactions(spec: InteractionsSpec, base: Path, *, memory_limit: str = "2GB") -> pa.Table:
    """Loads interactions whole, in canonical form.

    Values that are null or of the wrong type come as nulls and NaN stays NaN: use the validate step to refuse them.

    Args:
        spec: Source and columns.
        base: Folder of the project file.
        memory_limit: Memory of the query, beside the result itself.

    Raises:
        DataError: The source is absent, empty, unreadable, or lacks a column.
    """
    table = open_source(spec.source, base)
    query = canonical_query(table, spec, "source")
    with connect(memory_limit=memory_limit) as connection:
        table.view(connection, "source")
        result = connection.sql(query).to_arrow_table()
    assert isinstance(result, pa.Table)
    return result
