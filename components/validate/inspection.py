"""Counts what fails: one aggregate query a table, then examples of what failed, apart."""

# ruff: noqa: S608 - names are quoted by quote(); the database is this process's own

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from slipway.components.validate.report import Failure, Outcome, TableReport
from slipway.components.validate.rules import Rule, entity_columns, entity_names, entity_rules, interaction_rules
from slipway.contracts.data import ChecksSpec, InteractionsSpec, ItemsSpec, UsersSpec
from slipway.contracts.durations import format_duration
from slipway.datasets.interactions import typed_columns
from slipway.datasets.sources import FILE_COLUMN, SourceTable, quote

EXAMPLES = 3
EARLIEST_PLAUSIBLE = datetime(1995, 1, 1)  # naive, in UTC


def inspect_interactions(
    connection: duckdb.DuckDBPyConnection,
    table: SourceTable,
    spec: InteractionsSpec,
    checks: ChecksSpec,
    now: datetime,
) -> TableReport:
    """Checks the interactions; `table` is readable in `connection` as "interactions".

    Raises:
        DataError: A column is absent or its type can never fit.
        UsageError: A check names a column that is not there.
    """
    typed = typed_columns(table, spec)
    rules = interaction_rules(table, spec, checks, now)
    time = typed["timestamp"]
    kept = "count(*)" if spec.minimum_rating is None else f"count_if({typed['rating']} >= {spec.minimum_rating!r})"
    rows, counts, (first, last, kept_rows) = _count(
        connection, "interactions", rules, [f"min({time})", f"max({time})", f"coalesce({kept}, 0)"]
    )
    outcomes = _outcomes(connection, table, "interactions", rules, rows, counts)
    outcomes.append(_minimum_rows(rows, kept_rows, spec, checks))
    if checks.freshness is not None:
        outcomes.append(_freshness(spec, last, now, checks.freshness))
    warnings = []
    key = [typed[name] for name in ("user", "item", "timestamp")]
    duplicates = _duplicates(connection, "interactions", key, ["user", "item", "timestamp"])
    excess = duplicates[0]
    if checks.duplicates == "refuse":
        outcomes.append(
            Outcome(
                check="duplicates",
                column="user, item, timestamp",
                requirement="occurs once",
                count=excess,
                allowed=0,
                examples=duplicates[1],
                remedy="Remove the repeated rows, or set data.checks.duplicates to drop or allow.",
            )
        )
    elif excess:
        what = "dropped" if checks.duplicates == "drop" else "kept, as data.checks.duplicates allows"
        warnings.append(f"{excess:,} repeated rows (same user, item and timestamp) were {what}")
    if spec.minimum_rating is not None and kept_rows < rows:
        warnings.append(f"{rows - kept_rows:,} rows without a rating of {spec.minimum_rating:g} or more were left out")
    if last is not None and last < EARLIEST_PLAUSIBLE:
        warnings.append(f"the newest event is from {last:%Y-%m-%d}: is data.interactions.timestamp_unit right?")
    return TableReport(
        name="interactions",
        source=table.source,
        columns={name: table.columns[theirs] for name, theirs in spec.columns.chosen().items()},
        rows=rows,
        first=None if first is None else first.isoformat(),
        last=None if last is None else last.isoformat(),
        checks=outcomes,
        warnings=warnings,
    )


def inspect_entities(
    connection: duckdb.DuckDBPyConnection, table: SourceTable, spec: ItemsSpec | UsersSpec, checks: ChecksSpec
) -> TableReport:
    """Checks the items or the users table; `table` is readable in `connection` as "items" or "users".

    Raises:
        DataError: A column is absent or the key's type can never fit.
        UsageError: A check names a column that is not there.
    """
    name, key, _ = entity_names(spec)
    columns = entity_columns(table, spec)
    rules = entity_rules(table, spec, checks)
    rows, counts, _ = _count(connection, name, rules, [])
    outcomes = _outcomes(connection, table, name, rules, rows, counts)
    excess, examples = _duplicates(connection, name, [columns[key]], [key])
    warnings = []
    if checks.duplicates == "refuse":
        outcomes.append(
            Outcome(
                check="duplicates", column=f"{name}.{key}", requirement="occurs once", count=excess, allowed=0,
                examples=examples, remedy="Keep one row a key, or set data.checks.duplicates to drop.",
            )
        )  # fmt: skip
    elif excess:
        warnings.append(f"{excess:,} rows with a repeated {key} were dropped")
    kinds = {column: table.columns.get(column, "VARCHAR") for column in columns if column != key}
    return TableReport(
        name=name, source=table.source, columns={key: "VARCHAR", **kinds}, rows=rows, checks=outcomes, warnings=warnings
    )


def _count(
    connection: duckdb.DuckDBPyConnection, view: str, rules: list[Rule], extra: list[str]
) -> tuple[int, list[int], list[Any]]:
    parts = ["count(*)", *(f"count_if({rule.failing})" for rule in rules), *extra]
    row = connection.execute(f"SELECT {', '.join(parts)} FROM {quote(view)}").fetchone()
    assert row is not None
    return int(row[0]), [int(value or 0) for value in row[1 : 1 + len(rules)]], list(row[1 + len(rules) :])


def _outcomes(
    connection: duckdb.DuckDBPyConnection,
    table: SourceTable,
    view: str,
    rules: list[Rule],
    rows: int,
    counts: list[int],
) -> list[Outcome]:
    outcomes = []
    for rule, count in zip(rules, counts, strict=True):
        allowed = rule.allowed(rows)
        outcomes.append(
            Outcome(
                check=rule.check,
                column=rule.column,
                requirement=rule.requirement,
                count=count,
                allowed=allowed,
                examples=_examples(connection, table, view, rule) if count > allowed else (),
                files=_files(connection, table, view, rule) if count > allowed else {},
                remedy=_REMEDIES.get(rule.check, ""),
            )
        )
    return outcomes


_REMEDIES = {
    "nulls": "Fill the gaps, drop those rows, or raise data.checks.maximum_null_share of the column.",
    "type": "Mend the values, or name another column.",
    "not a number": "Replace NaN and infinity, or drop those rows.",
    "range": "Mend the values, or widen data.checks.ranges of the column.",
    "future": "Check clocks, time zones and data.interactions.timestamp_unit, or raise data.checks.future_tolerance.",
}


def _examples(connection: duckdb.DuckDBPyConnection, table: SourceTable, view: str, rule: Rule) -> tuple[str, ...]:
    columns = list(dict.fromkeys([rule.source_column, *list(table.columns)[:6]]))
    chosen = ", ".join(quote(column) for column in columns)
    query = (
        f"SELECT slipway_row, {chosen} FROM (SELECT *, row_number() OVER () AS slipway_row FROM {quote(view)}) "
        f"WHERE {rule.failing} LIMIT {EXAMPLES}"
    )
    return tuple(
        f"row {number:,}: "
        + ", ".join(f"{column}={_text(value)}" for column, value in zip(columns, values, strict=True))
        for number, *values in connection.execute(query).fetchall()
    )


def _files(connection: duckdb.DuckDBPyConnection, table: SourceTable, view: str, rule: Rule) -> dict[str, int]:
    """Returns {file: failing rows} of the worst files of a source of several."""
    if len(table.files) < 2:
        return {}
    query = (
        f"SELECT {FILE_COLUMN}, count(*) AS failing FROM {quote(view)} WHERE {rule.failing} "
        f"AND {FILE_COLUMN} IS NOT NULL GROUP BY ALL ORDER BY failing DESC, {FILE_COLUMN} LIMIT {EXAMPLES}"
    )
    return {_short(name, table): int(count) for name, count in connection.execute(query).fetchall()}


def _short(name: str, table: SourceTable) -> str:
    folders = {file.parent for file in table.files}
    return Path(name).name if len(folders) == 1 else "/".join(Path(name).parts[-2:])


def _duplicates(
    connection: duckdb.DuckDBPyConnection, view: str, expressions: list[str], names: list[str]
) -> tuple[int, tuple[str, ...]]:
    """Returns how many rows repeat an earlier key, and the most repeated keys."""
    keys = ", ".join(f"{expression} AS {quote(name)}" for expression, name in zip(expressions, names, strict=True))
    order = ", ".join(quote(name) for name in names)
    complete = " AND ".join(f"{quote(name)} IS NOT NULL" for name in names)
    groups = (
        f"SELECT {order}, count(*) AS times FROM (SELECT {keys} FROM {quote(view)}) WHERE {complete} "
        "GROUP BY ALL HAVING count(*) > 1"
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE slipway_repeated AS {groups}")
    row = connection.execute("SELECT coalesce(sum(times - 1), 0) FROM slipway_repeated").fetchone()
    assert row is not None
    query = f"SELECT {order}, times FROM slipway_repeated ORDER BY times DESC, {order} LIMIT {EXAMPLES}"
    examples = tuple(
        ", ".join(f"{name}={_text(value)}" for name, value in zip(names, values, strict=False))
        + f" ({values[-1]} times)"
        for values in connection.execute(query).fetchall()
    )
    connection.execute("DROP TABLE slipway_repeated")
    return int(row[0]), examples


def _minimum_rows(rows: int, kept: int, spec: InteractionsSpec, checks: ChecksSpec) -> Outcome:
    what = (
        f"{rows:,} rows"
        if kept == rows
        else f"{kept:,} of {rows:,} rows have a rating of {spec.minimum_rating:g} or more"
    )
    return Outcome(
        check="minimum rows",
        column="interactions",
        requirement=f"has at least {checks.minimum_rows:,} row{'s' if checks.minimum_rows > 1 else ''}",
        count=max(checks.minimum_rows - kept, 0),
        allowed=0,
        of_rows=False,
        examples=(what,),
        remedy="Bring more data, or lower data.checks.minimum_rows.",
    )


def _freshness(spec: InteractionsSpec, last: datetime | None, now: datetime, limit: timedelta) -> Outcome:
    stale = last is None or now - last > limit
    return Outcome(
        check="freshness",
        column="timestamp",
        requirement=f"the newest event is younger than {format_duration(limit)}",
        count=int(stale),
        allowed=0,
        of_rows=False,
        examples=(f"the newest event in {spec.columns.timestamp!r} is from {last}" if last else "there is no event",),
        remedy="Bring newer data, or raise data.checks.freshness.",
    )


def failures_of(table: TableReport) -> list[Failure]:
    """Returns the failed checks of a table, as an error carries them."""
    return [
        Failure(
            table=table.name,
            check=outcome.check,
            column=outcome.column,
            count=outcome.count,
            of=table.rows if outcome.of_rows else None,
            example=outcome.examples[0] if outcome.examples else "",
            where=", ".join(f"{name} ({count:,})" for name, count in outcome.files.items()) or table.source,
            remedy=outcome.remedy,
        )
        for outcome in table.checks
        if not outcome.passed
    ]


def _text(value: Any) -> str:
    text = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
