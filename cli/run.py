"""`slipway run`: the pipeline on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.project import load_project


@click.command(
    epilog="\b\nExamples:\n"
    "  slipway run\n"
    "  slipway run --set model.parameters.factors=128 --name wider\n"
    "  slipway run --step train\n"
    "  slipway run -o json | jq '.steps[] | {step, status, metrics}'"
)
@file_option
@output_option
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
@click.option(
    "--step",
    type=click.Choice(["validate", "featurize", "train", "evaluate", "register"]),
    help="Run this step again, and before it only what it needs.",
)
@click.option("--name", help="Name of the run (default: its time).")
@click.option("--no-cache", is_flag=True, help="Run every step, even if nothing changed.")
def run(
    file: Path, output: str, overrides: tuple[str, ...], step: str | None, name: str | None, no_cache: bool
) -> None:
    """Run the pipeline on this machine: validate, featurize, train, evaluate, register.

    Each step is a process of its own. A step whose settings, inputs, code and libraries are those of an earlier run is
    taken from the cache; a run that was killed goes on where it was. Results are in .slipway/runs.

    Views are also registered with Feast, if it is installed; SLIPWAY_FEAST=0 leaves that out and saves seconds.
    """
    from slipway.cli.run_display import RunDisplay, summary
    from slipway.pipelines.runs import run_training
    from slipway.pipelines.settings import STEPS

    if name is not None and not re.fullmatch(r"[A-Za-z0-9][-\w.]{0,99}", name):
        raise click.UsageError("--name takes letters, digits, '-', '_' and '.', and begins with a letter or a digit")
    project = load_project(file, overrides)
    display = RunDisplay(STEPS if step is None else STEPS[: STEPS.index(step) + 1])
    with display.shown():
        report = run_training(project, name=name, step=step, use_cache=not no_cache, observe=display.observe)
    emit(report, output, table=lambda: summary(report))
    error = report.error()
    if error is not None:
        failures = (error.cause or {}).get("failures")
        if failures and output == "table":
            console(stderr=True).print(table_of(failures))
        raise error
    if all(done.status == "cached" for done in report.steps):
        note("nothing has changed: every step came from the cache")
    registration = report.steps[-1].result
    if report.steps[-1].step == "register" and "version" in registration:
        version = f"{registration['name']} version {registration['version']}"
        if registration.get("new", True) and report.steps[-1].status == "ran":
            note(f"registered {version} as challenger")
            note("next: slipway up && slipway rollout start")
        else:
            note(f"this model is {version} already")
