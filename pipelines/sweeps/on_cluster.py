"""One sweep of a project on a cluster: features to where pods find them, the Experiment, and its result back here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slipway.components.tune.places import put_features
from slipway.contracts.files import exclusive_lock, write_atomically, write_json
from slipway.contracts.project import Project
from slipway.pipelines.sweeps.check import check_sweep
from slipway.pipelines.sweeps.experiment import (
    STORE,
    Place,
    build_experiment,
    document,
    experiment_name,
    place_on_cluster,
    sweep_of,
)
from slipway.pipelines.sweeps.features import RunFeatures, find_features, hold_out
from slipway.pipelines.sweeps.katib import KatibSweep
from slipway.pipelines.sweeps.lint import check_document
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord
from slipway.pipelines.sweeps.result import write_result
from slipway.pipelines.sweeps.study import importances_of
from slipway.pipelines.sweeps.sweep import ARTIFACT, REPORT, ignore
from slipway.pipelines.sweeps.tracking import track_sweep
from slipway.serving.rollout.operator.kube import Kube

SUFFIX = "-katib"


def run_sweep_on_cluster(
    project: Project,
    kube: Kube,
    *,
    run: str | None = None,
    restart: bool = False,
    observe: Callable[[str, TrialRecord], None] = ignore,
    note: Callable[[str], None] = lambda _line: None,
) -> SweepReport:
    """Runs the sweep of a project on a cluster's Katib, or follows the one that runs there already.

    Args:
        project: The project file.
        kube: The cluster.
        run: Name of the pipeline run whose features are used; by default the newest that fits.
        restart: Begin anew if there is such an Experiment.
        observe: Told of each trial that starts or ends.
        note: Told what a person should know while it goes on.

    Returns:
        What became of it; a failed sweep is in the report, not raised.

    Raises:
        LockHeldError: Another process of this machine follows this sweep.
        ProjectFileError: The sweep does not fit its model or its evaluation.
        UsageError: There is no sweep, or no run to start from.
        EnvironmentProblemError: There is no Katib, or the namespace lacks what it needs.
        RefusedByClusterError: Katib refused the Experiment.
        ServiceError: The cluster or the object store does not answer.
        KeyboardInterrupt: It was interrupted; the Experiment has been taken away.
    """
    for warning in check_sweep(project):
        note(f"warning: {warning}")
    source, place = _place(project, run)
    folder = _folder(project, place)
    with exclusive_lock(
        project.state / "sweep.lock",
        holder=f"sweep {folder.name}",
        remedy="Wait for it to end, or stop that process; the Experiment itself may be followed from elsewhere.",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        content = document(build_experiment(project, place))
        check_document(content)
        features = None
        if source is not None:
            note(f"trials choose on a part of the training data of run {source.run_id}, at {place.features}")
            features = hold_out(project, source, folder)
            put_features(features, place.features)
        write_json(folder / "experiment.json", content)
        sweep = KatibSweep(kube, content, project.name, folder, observe, note)
        report = sweep.run(restart=restart)
        problem = track_sweep(project, report) if report.trials else None
        if problem is not None:
            report.warnings.append(f"MLflow has no record of this sweep ({problem}); its artifact has it")
        write_result(report, content, features, folder / ARTIFACT, importances_of(content, report.trials))
        write_atomically(folder / REPORT, report.model_dump_json(indent=2) + "\n")
        return report


def cancel_sweep_on_cluster(
    project: Project, kube: Kube, *, run: str | None = None, note: Callable[[str], None] = lambda _line: None
) -> bool:
    """Takes the Experiment of a project's sweep away, with its trials and pods; False if there is none.

    Raises:
        UsageError: There is no sweep, or no run that says which features it started from.
        LockHeldError: What has the name is not of this project.
        ServiceError: The cluster does not answer, or something stays.
    """
    _source, place = _place(project, run)
    content = document(build_experiment(project, place))
    return KatibSweep(kube, content, project.name, _folder(project, place), ignore, note).cancel()


def _place(project: Project, run: str | None) -> tuple[RunFeatures | None, Place]:
    """Returns the run whose features are brought to the cluster, None if they are there, and where trials find them."""
    if sweep_of(project).trial.features is not None or not place_on_cluster(project).features.startswith(STORE):
        return None, place_on_cluster(project)
    source = find_features(project, run)
    return source, place_on_cluster(project, source.fingerprint)


def _folder(project: Project, place: Place) -> Path:
    return project.state / "sweeps" / f"{experiment_name(project, place)}{SUFFIX}"
