"""Printing: results to stdout, everything else to stderr; colour on terminals only.

emit(rows, output, table=lambda: table_of(rows, ["name", "version"]))
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from pydantic import BaseModel

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


def console(*, stderr: bool = False) -> Console:
    """Returns a rich console on stdout (results) or stderr (progress, notes).

    Colour and movement appear on a terminal only; piped output keeps its full width.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 200)


def note(message: str) -> None:
    """Prints one line for a person, to stderr, so that stdout stays the result alone."""
    click.echo(message, err=True)


def plain(data: Any) -> Any:
    """Returns `data` as JSON can carry it: models as dicts, paths and times as text, NaN and infinity as null."""
    if isinstance(data, BaseModel):
        return plain(data.model_dump(mode="json"))
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple, set, frozenset)):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if data is None or isinstance(data, (str, int, bool)):
        return data
    if hasattr(data, "item"):  # a numpy scalar
        return plain(data.item())
    return str(data)


def emit(data: Any, output: str, *, table: Callable[[], RenderableType] | RenderableType | None = None) -> None:
    """Prints a result to stdout as the user asked.

    Args:
        data: Pydantic model, mapping, or list of them.
        output: "table", "json" or "yaml", from `options.output_option`.
        table: What "table" shows, or a function that makes it; by default a table of the rows of `data`.
    """
    if output == "json":
        click.echo(json.dumps(plain(data), indent=2, allow_nan=False))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(plain(data), sort_keys=False, allow_unicode=True), nl=False)
    else:
        shown = table() if callable(table) else table
        console().print(shown if shown is not None else table_of(_rows(data)))


def table_of(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None, *, title: str | None = None
) -> Table:
    """Returns a plain table of rows; numbers are right-aligned.

    Args:
        rows: One mapping a row; a missing value is shown as a dash.
        columns: Keys to show, in order; by default those of the first row.
        title: Line above the table.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = list(columns if columns is not None else (rows[0] if rows else ()))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        numeric = bool(rows) and all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(format_value(row.get(name))) for name in names))
    return table


def format_value(value: Any) -> str:
    """Returns a value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(part) for part in value)
    return str(value)


def _rows(data: Any) -> list[Mapping[str, Any]]:
    simple = plain(data)
    if isinstance(simple, list):
        return [row if isinstance(row, dict) else {"value": row} for row in simple]
    if isinstance(simple, dict):
        return [{"field": key, "value": value} for key, value in simple.items()]
    return [{"value": simple}]
