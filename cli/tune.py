"""`slipway tune`: a search for better parameters, here or as an Experiment for Katib."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.errors import UsageError
from slipway.contracts.project import Project, load_project

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from slipway.pipelines.sweeps.records import SweepReport, TrialRecord


@click.command(
    epilog="\b\nExamples:\n"
    "  slipway tune\n"
    "  slipway tune --set sweep.max_trials=40 --set sweep.algorithm=random\n"
    "  slipway tune -o json | jq '.best.parameters'\n"
    "  slipway tune --cluster                        by Katib, on the cluster of KUBECONFIG\n"
    "  slipway tune --cluster --cancel               takes that sweep away\n"
    "  slipway tune --render > experiment.yaml       for Katib: kubectl create -f experiment.yaml"
)
@file_option
@output_option
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
@click.option("--run", "run_name", help="Run whose features are used (default: the newest that fits).")
@click.option("--restart", is_flag=True, help="Forget the trials of this sweep that were done before.")
@click.option("--cluster", is_flag=True, help="Run it by Katib, on the cluster that KUBECONFIG names.")
@click.option("--context", help="With --cluster: another context of KUBECONFIG.")
@click.option("--cancel", is_flag=True, help="With --cluster: take the sweep away, with its trials.")
@click.option("--render", is_flag=True, help="Print the Experiment for Katib, and run nothing.")
@click.option("--lint", "checked", type=click.Path(path_type=Path), help="Check an Experiment in a YAML file.")
def tune(
    file: Path,
    output: str,
    overrides: tuple[str, ...],
    run_name: str | None,
    *,
    restart: bool,
    cluster: bool,
    context: str | None,
    cancel: bool,
    render: bool,
    checked: Path | None,
) -> None:
    """Search for better parameters of the model, as the part `sweep:` of the project file says.

    Trials train and choose on a part of the training data of a run; its held-out part is not looked at. A sweep that
    was killed goes on with the trials that are missing, and one that has ended goes on if it may have more trials.
    Results are in .slipway/sweeps.

    With --cluster the same sweep is an Experiment of Katib. Whoever starts it again follows it; Ctrl-C takes it away.
    """
    if checked is not None:
        _lint(checked)
        return
    project = load_project(file, overrides)
    if not cluster and (cancel or context is not None):
        raise click.UsageError("--cancel and --context go with --cluster")
    if render:
        _render(project)
        return
    from slipway.pipelines.sweeps.page import run_command

    if cancel:
        _cancel(project, context, run_name)
        return
    display = _Display(project.sweep.max_trials if project.sweep is not None else 0)
    start = _start_on_cluster(context) if cluster else _start_here
    with display.shown():
        report = start(project, run=run_name, restart=restart, observe=display.observe, note=note)
    for warning in report.warnings:
        note(warning)
    emit(report, output, table=lambda: _table(report))
    error = report.error()
    if error is not None:
        note(f"page: {report.page}")
        raise error
    assert report.best is not None
    note(f"{report.message}; best: {report.metric} {report.best.value:.4f} in trial {report.best.number}")
    note(f"page: {report.page}")
    if report.improves():
        note(f"next: {run_command(report)}")
    else:
        note("no trial is better than the project's own parameters: keep them, or search elsewhere")


def _start_here(project: Project, **options: Any) -> SweepReport:
    from slipway.pipelines.sweeps.sweep import run_sweep

    return run_sweep(project, **options)


def _start_on_cluster(context: str | None) -> Callable[..., SweepReport]:
    from slipway.pipelines.sweeps.on_cluster import run_sweep_on_cluster
    from slipway.serving.rollout.operator.kube import connect

    kube = connect(context=context)
    return lambda project, **options: run_sweep_on_cluster(project, kube, **options)


def _cancel(project: Project, context: str | None, run_name: str | None) -> None:
    from slipway.pipelines.sweeps.on_cluster import cancel_sweep_on_cluster
    from slipway.serving.rollout.operator.kube import connect

    there = cancel_sweep_on_cluster(project, connect(context=context), run=run_name, note=note)
    note("the Experiment is gone, and all that it had made" if there else "there is no such Experiment")


def _render(project: Project) -> None:
    from slipway.pipelines.sweeps.check import check_sweep
    from slipway.pipelines.sweeps.experiment import build_experiment, document, place_on_cluster, render
    from slipway.pipelines.sweeps.lint import check_document

    for warning in check_sweep(project):
        note(f"warning: {warning}")
    experiment = build_experiment(project, place_on_cluster(project))
    check_document(document(experiment))
    click.echo(render(experiment), nl=False)


def _lint(file: Path) -> None:
    import yaml

    from slipway.pipelines.sweeps.lint import check_document

    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"it cannot be read ({error})", where=str(file), remedy="Name a YAML file.") from error
    if not isinstance(content, dict):
        raise UsageError("it holds no Experiment", where=str(file), remedy="Make one with: slipway tune --render")
    check_document(content)
    note(f"{file}: nothing to complain of")


def _table(report: SweepReport) -> Any:
    rows = [
        {
            "trial": trial.number,
            "status": trial.status,
            report.metric: trial.value,
            **trial.parameters,
            "seconds": None if trial.seconds is None else round(trial.seconds, 1),
            "": "best" if report.best is not None and trial.name == report.best.name else trial.error or "",
        }
        for trial in report.trials
    ]
    return table_of(rows, ["trial", "status", report.metric, *report.parameters, "seconds", ""])


class _Display:
    """Shows how a sweep goes on, on stderr: a bar on a terminal, one line a trial elsewhere."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._console = console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._best: float | None = None
        self._running: set[int] = set()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        with self._bar:
            self._task = self._bar.add_task("", total=self._trials)
            yield

    def observe(self, event: str, trial: TrialRecord) -> None:
        if event == "started":
            self._running.add(trial.number)
        else:
            self._running.discard(trial.number)
            value = "" if trial.value is None else f" {trial.value:.4f}"
            reason = f": {trial.error}" if trial.error else ""
            self._console.print(f"trial {trial.number}: {trial.status}{value}{reason}", markup=False)
        if self._bar is not None and self._task is not None:
            running = ", ".join(str(number) for number in sorted(self._running))
            self._bar.update(
                self._task, advance=0 if event == "started" else 1, description=f"running: {running}" if running else ""
            )
