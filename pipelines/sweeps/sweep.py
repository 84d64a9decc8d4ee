"""One sweep of a project on this machine, from the project file to its artifact, page and runs in MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from pydantic import ValidationError

from slipway.contracts.files import exclusive_lock, write_atomically, write_json
from slipway.contracts.project import Project
from slipway.pipelines.sweeps.baseline import measure_baseline
from slipway.pipelines.sweeps.check import check_sweep
from slipway.pipelines.sweeps.experiment import Place, build_experiment, document, experiment_name
from slipway.pipelines.sweeps.features import FEATURES, find_features, hold_out
from slipway.pipelines.sweeps.lint import check_document
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord
from slipway.pipelines.sweeps.result import write_result
from slipway.pipelines.sweeps.runner import SweepRunner
from slipway.pipelines.sweeps.tracking import track_sweep

ARTIFACT = "result"
REPORT = "sweep.json"


def ignore(_event: str, _trial: TrialRecord) -> None:
    """Does nothing; the default observer."""


def run_sweep(
    project: Project,
    *,
    run: str | None = None,
    restart: bool = False,
    observe: Callable[[str, TrialRecord], None] = ignore,
    note: Callable[[str], None] = lambda _line: None,
) -> SweepReport:
    """Runs the sweep of a project, or what is missing of it.

    Args:
        project: The project file.
        run: Name of the pipeline run whose features are used; by default the newest that fits.
        restart: Forget the trials that were done before.
        observe: Told of each trial that starts or ends.
        note: Told what a person should know while it goes on.

    Returns:
        What became of it; a failed sweep is in the report, not raised.

    Raises:
        LockHeldError: Another sweep of this project goes on.
        ProjectFileError: The sweep does not fit its model or its evaluation.
        UsageError: There is no sweep, or no run to start from.
        StepError: The features to choose on cannot be made.
        EnvironmentProblemError: A package is missing, or the disk is full.
        KeyboardInterrupt: It was interrupted; the next call goes on.
    """
    for warning in check_sweep(project):
        note(f"warning: {warning}")
    source = find_features(project, run)
    name = experiment_name(project, Place("", "", source.fingerprint))
    folder = project.state / "sweeps" / name
    with exclusive_lock(
        project.state / "sweep.lock", holder=f"sweep {name}", remedy="Wait for it to end, or stop that process."
    ):
        if restart:
            shutil.rmtree(folder, ignore_errors=True)
        place = Place(str(folder / FEATURES), str(project.directory), source.fingerprint)
        content = document(build_experiment(project, place))
        check_document(content)
        note(f"sweep {name}: trials choose on a part of the training data of run {source.run_id}")
        hold_out(project, source, folder)
        write_json(folder / "experiment.json", content)
        baseline = measure_baseline(content, folder)
        note(f"the project's own parameters: {_told(baseline)}")
        runner = SweepRunner(content, project.name, folder, observe)
        report = runner.run()
        report.baseline = baseline
        problem = track_sweep(project, report) if report.trials else None
        if problem is not None:
            report.warnings.append(f"MLflow has no record of this sweep ({problem}); its artifact has it")
        write_result(report, content, folder / FEATURES, folder / ARTIFACT, runner.study.importances())
        write_atomically(folder / REPORT, report.model_dump_json(indent=2) + "\n")
        return report


def _told(trial: TrialRecord) -> str:
    return f"{trial.value:.4f}" if trial.value is not None else f"{trial.status}: {trial.error or 'no value'}"


def sweeps_of(project: Project) -> list[SweepReport]:
    """Returns the reports of the sweeps that have ended, oldest first."""
    reports = []
    for file in (project.state / "sweeps").glob(f"*/{REPORT}"):
        try:
            reports.append(SweepReport.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(reports, key=lambda report: (report.started, report.name))
