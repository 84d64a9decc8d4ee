"""`slipway validate`: the project file and its data, checked; nothing is written."""

from __future__ import annotations

from pathlib import Path

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.project import load_project


@click.command(
    epilog="\b\nExamples:\n"
    "  slipway validate\n"
    "  slipway validate --no-data\n"
    "  slipway validate -f shop/slipway.yaml -o json | jq '.tables[].checks[] | select(.count > .allowed)'"
)
@file_option
@output_option
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
@click.option("--no-data", is_flag=True, help="Check the project file alone.")
def validate(file: Path, output: str, overrides: tuple[str, ...], no_data: bool) -> None:
    """Check the project file and its data.

    Shows every check with the number of rows that fail it, and writes nothing. Exit code 1 if the data fails, 2 if the
    project file does.
    """
    project = load_project(file, overrides)
    if no_data:
        emit({"project": project.name, "passed": True}, output, table=f"{project.path}: the project file is right")
        return
    from slipway.components.progress import Progress
    from slipway.components.validate.step import ValidateRequest, failed_checks, inspect

    request = ValidateRequest(data=project.data, base=project.directory, output=project.state / "validate")
    with console(stderr=True).status("checking"):
        report = inspect(request, Progress())
    rows = [
        {
            "table": table.name,
            "check": outcome.check,
            "column": outcome.column,
            "requirement": outcome.requirement,
            "failing": outcome.count,
            "allowed": outcome.allowed,
            "passed": outcome.passed,
        }
        for table in report.tables
        for outcome in table.checks
    ]
    emit(report, output, table=lambda: table_of(rows))
    for warning in report.warnings:
        note(f"note: {warning}")
    if not report.passed:
        raise failed_checks(report, "slipway validate -o json shows examples of each")
    if output == "table":
        shapes = ", ".join(f"{table.name} {table.rows:,} rows" for table in report.tables)
        note(f"all checks passed: {shapes}")
