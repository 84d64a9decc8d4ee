"""Checks on single rows, as SQL conditions that are true where a row fails. One query counts them all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from slipway.contracts.data import ChecksSpec, InteractionsSpec, ItemsSpec, UsersSpec
from slipway.contracts.durations import format_duration
from slipway.contracts.errors import UsageError
from slipway.datasets.interactions import MEANINGS, id_expression, is_number, typed_columns, wrong_type
from slipway.datasets.sources import SourceTable, quote

KEYS = ("user", "item", "timestamp")
NEVER_NULL = (*KEYS, "rating", "weight", "split")


@dataclass(frozen=True)
class Rule:
    """One check on one column.

    `failing` is SQL over the source's columns; `allowed_share` of the rows may fail; `source_column` is the column as
    its owner calls it, `requirement` what should hold, in words.
    """

    check: str
    column: str
    source_column: str
    requirement: str
    failing: str
    allowed_share: float = 0.0

    def allowed(self, rows: int) -> int:
        """Returns how many of `rows` may fail."""
        return int(self.allowed_share * rows + 1e-9)


def interaction_rules(table: SourceTable, spec: InteractionsSpec, checks: ChecksSpec, now: datetime) -> list[Rule]:
    """Returns the rules of the interactions.

    Args:
        table: The opened source.
        spec: Its columns.
        checks: What must hold.
        now: The current time, naive, in UTC.

    Raises:
        DataError: A column is absent or its type can never fit.
        UsageError: A check names a column that is not there.
    """
    typed = typed_columns(table, spec)
    chosen = spec.columns.chosen()
    _refuse_unknown(checks, "", typed)
    rules = []
    for ours, theirs in chosen.items():
        raw, value = quote(theirs), typed[ours]
        absent = f"{raw} IS NULL"
        if table.type_of(theirs) == "VARCHAR":
            absent = f"coalesce(CAST({raw} AS VARCHAR), '') = ''"
        share = checks.maximum_null_share.get(ours, 0.0 if ours in NEVER_NULL else 1.0)
        if ours in KEYS:
            share = 0.0
        rules.append(Rule("nulls", ours, theirs, _null_requirement(share), absent, share))
        rules.append(
            Rule("type", ours, theirs, f"can be read as {MEANINGS[ours]}", f"NOT ({absent}) AND {value} IS NULL")
        )
        if ours in ("rating", "weight"):
            rules.append(Rule("not a number", ours, theirs, "is finite", f"NOT isfinite({value})"))
            low, high = checks.ranges.get(ours, (0.0, None) if ours == "weight" else (None, None))
            rules.extend(_range_rules(ours, theirs, value, low, high))
        elif ours in checks.ranges:
            raise UsageError(
                f"a range cannot be checked on {ours!r}, which is not a number",
                where="data.checks.ranges",
                remedy="Ranges fit rating, weight, and number columns of items and users.",
            )
        if ours == "timestamp":
            latest = now + checks.future_tolerance
            rules.append(
                Rule(
                    "future",
                    ours,
                    theirs,
                    f"is at most {format_duration(checks.future_tolerance)} ahead of now",
                    f"{value} > TIMESTAMP '{latest.isoformat(sep=' ')}'",
                )
            )
    return rules


def entity_rules(table: SourceTable, spec: ItemsSpec | UsersSpec, checks: ChecksSpec) -> list[Rule]:
    """Returns the rules of the items or the users table; a key and its attributes are named `items.year`.

    Raises:
        DataError: A column is absent or the key's type can never fit.
        UsageError: A check names a column that is not there.
    """
    name, key, key_column = entity_names(spec)
    typed = entity_columns(table, spec)
    _refuse_unknown(checks, f"{name}.", typed)
    raw = quote(key_column)
    absent = f"coalesce(CAST({raw} AS VARCHAR), '') = ''"
    rules = [
        Rule("nulls", f"{name}.{key}", key_column, "is there", absent),
        Rule("type", f"{name}.{key}", key_column, f"can be read as {MEANINGS[key]}",
             f"NOT ({absent}) AND {typed[key]} IS NULL"),
    ]  # fmt: skip
    for column, value in typed.items():
        if column == key:
            continue
        full = f"{name}.{column}"
        absent = f"{quote(column)} IS NULL"
        if full in checks.maximum_null_share:
            share = checks.maximum_null_share[full]
            rules.append(Rule("nulls", full, column, _null_requirement(share), absent, share))
        if table.textual and table.columns[column] != "VARCHAR":
            rules.append(
                Rule("type", full, column, f"is of type {table.columns[column]}",
                     f"NOT ({absent}) AND {value} IS NULL")
            )  # fmt: skip
        if full in checks.ranges:
            if not is_number(table.columns[column]):
                raise UsageError(
                    f"a range cannot be checked on {full!r}, which has type {table.columns[column]}",
                    where="data.checks.ranges",
                    remedy="Ranges fit number columns.",
                )
            number = f"CAST({value} AS DOUBLE)"
            rules.append(Rule("not a number", full, column, "is finite", f"NOT isfinite({number})"))
            rules.extend(_range_rules(full, column, number, *checks.ranges[full]))
    return rules


def entity_names(spec: ItemsSpec | UsersSpec) -> tuple[str, str, str]:
    """Returns (name of the table, our name of its key, the source's name of its key)."""
    if isinstance(spec, ItemsSpec):
        return "items", "item", spec.columns.item
    return "users", "user", spec.columns.user


def entity_columns(table: SourceTable, spec: ItemsSpec | UsersSpec) -> dict[str, str]:
    """Returns {canonical name: SQL expression} of an items or users table, the key first.

    Raises:
        DataError: A column is absent or the key's type can never fit.
    """
    name, key, key_column = entity_names(spec)
    table.require(key_column, meaning=MEANINGS[key])
    expression = id_expression(quote(key_column), table.type_of(key_column))
    if expression is None:
        raise wrong_type(key_column, table.type_of(key_column), meaning=MEANINGS[key], where=table.source)
    columns = {key: expression}
    attributes = spec.attributes
    if attributes is None:
        attributes = tuple(column for column in table.columns if column not in (key_column, key))
    for column in attributes:
        table.require(column, meaning=f"an attribute of {name}")
        kind = table.columns[column]
        columns[column] = f"TRY_CAST({quote(column)} AS {kind})" if table.textual else quote(column)
    return columns


def _null_requirement(share: float) -> str:
    return "is there" if share == 0 else f"is there in at least {1 - share:.1%} of the rows"


def _range_rules(column: str, source_column: str, value: str, low: float | None, high: float | None) -> list[Rule]:
    bounds = []
    if low is not None:
        bounds.append(f"{value} < {low!r}::DOUBLE")
    if high is not None:
        bounds.append(f"{value} > {high!r}::DOUBLE")
    if not bounds:
        return []
    text = f"is from {low:g} to {high:g}" if low is not None and high is not None else (
        f"is at least {low:g}" if low is not None else f"is at most {high:g}"
    )  # fmt: skip
    # NaN and infinity have a check of their own.
    return [Rule("range", column, source_column, text, f"isfinite({value}) AND ({' OR '.join(bounds)})")]


def _refuse_unknown(checks: ChecksSpec, prefix: str, columns: dict[str, str]) -> None:
    for field, names in (("maximum_null_share", checks.maximum_null_share), ("ranges", checks.ranges)):
        for name in names:
            here = name.startswith(prefix) if prefix else "." not in name
            if here and name.removeprefix(prefix) not in columns:
                raise UsageError(
                    f"there is no column {name!r}; the columns are {', '.join(prefix + column for column in columns)}",
                    where=f"data.checks.{field}",
                    remedy="Name a column that data.interactions.columns maps, or items.<column>, users.<column>.",
                )
