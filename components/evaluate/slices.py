"""Slices: groups of users, or of held-out items, whose metrics are reported, and gated, on their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slipway.components.evaluate.task import Task
from slipway.contracts.errors import UsageError

OTHER = "(other)"
MISSING = "(none)"
SEPARATOR = "|"


@dataclass(frozen=True)
class Slices:
    """`users`: "column=value" -> bool [n_users]. `items`: the same over items, of which only those are relevant."""

    users: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    items: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)


def make_slices(task: Task, names: Sequence[str], tables: Sequence[Path], *, maximum_values: int) -> Slices:
    """Cuts users and items into slices.

    Args:
        task: Who and what there is.
        names: `user_activity`, `item_popularity`, or columns of the users or items table.
        tables: Parquet files to look for columns in, keyed by `user` or `item`.
        maximum_values: Rarer values of a column than this many go together as "(other)".

    Raises:
        UsageError: No table has such a column.
    """
    slices = Slices()
    for name in names:
        if name == "user_activity":
            _add(slices.users, name, _terciles(task.activity.astype(np.float64)))
            slices.definitions[name] = "terciles of evaluated users by training events"
        elif name == "item_popularity":
            _add(slices.items, name, _popularity_thirds(task.popularity))
            slices.definitions[name] = (
                "held-out items by training events: the most popular items that make up a third of all events (head), "
                "those that make up the next third (mid), the rest (tail)"
            )
        else:
            _add_column(slices, task, name, tables, maximum_values)
    return slices


def _add(target: dict[str, NDArray[np.bool_]], name: str, groups: dict[str, NDArray[np.bool_]]) -> None:
    target.update({f"{name}={value}": mask for value, mask in groups.items() if mask.any()})


def _terciles(values: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    low, high = np.nanquantile(values, [1 / 3, 2 / 3])
    return {"low": values <= low, "mid": (values > low) & (values <= high), "high": values > high}


def _popularity_thirds(popularity: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    order = np.argsort(-popularity, kind="stable")
    before = np.empty(len(popularity))
    before[order] = np.cumsum(popularity[order]) - popularity[order]
    share = before / max(popularity.sum(), 1.0)
    return {"head": share < 1 / 3, "mid": (share >= 1 / 3) & (share < 2 / 3), "tail": share >= 2 / 3}


def _add_column(slices: Slices, task: Task, name: str, tables: Sequence[Path], maximum_values: int) -> None:
    known: set[str] = set()
    for file in tables:
        if not file.is_file():
            continue
        schema = pq.read_schema(file)
        key = "user" if "user" in schema.names else "item"
        known.update(set(schema.names) - {"user", "item"})
        if name not in schema.names or key not in schema.names:
            continue
        table = pq.read_table(file, columns=[key, name])
        value_of = dict(zip(table.column(key).to_pylist(), table.column(name).to_pylist(), strict=True))
        ids = task.users if key == "user" else task.items.ids(np.arange(len(task.items)))
        values = [value_of.get(identifier) for identifier in ids]
        _add(slices.users if key == "user" else slices.items, name, _groups(values, maximum_values))
        slices.definitions[name] = f"{'users' if key == 'user' else 'held-out items'} by {name}"
        return
    raise UsageError(
        f"no table of users or items has a column {name!r} to slice by",
        where="evaluation.slices",
        remedy=f"Known: {', '.join(['user_activity', 'item_popularity', *sorted(known)])}.",
    )


def _groups(values: Sequence[Any], maximum_values: int) -> dict[str, NDArray[np.bool_]]:
    """Groups by value; numbers with many values by terciles; lists, and texts joined by |, belong to each member."""
    present = [value for value in values if value is not None]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present)
    if present and numeric and len(set(present)) > maximum_values:
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        return _terciles(numbers) | {MISSING: np.isnan(numbers)}
    members = [_members(value) for value in values]
    counts: dict[str, int] = {}
    for member in (member for group in members for member in group):
        counts[member] = counts.get(member, 0) + 1
    frequent = sorted(counts, key=lambda value: (-counts[value], value))
    if len(frequent) > maximum_values:
        kept = set(frequent[: maximum_values - 1])
        members = [{value if value in kept else OTHER for value in group} for group in members]
        frequent = [*frequent[: maximum_values - 1], OTHER]
    return {value: np.array([value in group for group in members]) for value in frequent}


def _members(value: Any) -> set[str]:
    if value is None:
        return {MISSING}
    if isinstance(value, (list, tuple)):
        return {str(part) for part in value} or {MISSING}
    return set(filter(None, str(value).split(SEPARATOR))) or {MISSING}
