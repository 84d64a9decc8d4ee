"""Options that several verbs share, so that they are named and behave alike everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

OUTPUTS = ("table", "json", "yaml")


def file_option(command: Command) -> Command:
    """Adds `-f/--file`, the project file; the parameter is `file: Path`."""
    return click.option(
        "-f",
        "--file",
        type=click.Path(path_type=Path),
        default=Path("slipway.yaml"),
        show_default=True,
        help="The project file, or the folder that holds slipway.yaml.",
        callback=_inside_folder,
    )(command)


def output_option(command: Command) -> Command:
    """Adds `-o/--format table|json|yaml`; the parameter is `output: str`, for `slipway.cli.output.emit`."""
    return click.option(
        "-o",
        "--format",
        "output",
        type=click.Choice(OUTPUTS),
        default="table",
        show_default=True,
        help="How the result is printed.",
        is_eager=True,
        callback=_remember_output,
    )(command)


def yes_option(command: Command) -> Command:
    """Adds `-y/--yes`, which answers every question; the parameter is `yes: bool`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def _inside_folder(context: click.Context, parameter: click.Parameter, value: Path) -> Path:  # noqa: ARG001
    return value / "slipway.yaml" if value.is_dir() else value


def _remember_output(context: click.Context, parameter: click.Parameter, value: str) -> str:  # noqa: ARG001
    # Errors are printed by main(), which then knows that a program reads them.
    context.meta["slipway.output"] = value
    return value
