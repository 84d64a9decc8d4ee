"""A sweep in MLflow: one run for it, and the runs of its trials, which the train step wrote, below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.contracts.project import Project
from slipway.models.registry import check_reachable, quiet_mlflow, registry_for
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "slipway.sweep"
_PARAMETER_LENGTH = 500


def track_sweep(project: Project, report: SweepReport) -> str | None:
    """Writes a sweep to MLflow; what it wrote of this sweep before is brought up to date.

    Returns:
        None, or why it could not be written: results never depend on MLflow.
    """
    registry = registry_for(project.directory, project.tracking.uri)
    try:
        check_reachable(registry.tracking_uri)
        with quiet_mlflow():
            _write(project.name, report, registry.tracking_uri, registry.artifact_root)
    except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the sweep is done and kept
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return f"{type(error).__name__}: {reason}"
    return None


def _write(name: str, report: SweepReport, uri: str, artifact_root: Path | None) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        identifier = experiment.experiment_id
    else:
        own = artifact_root.as_uri() if artifact_root is not None and uri.startswith("sqlite:") else None
        identifier = client.create_experiment(name, artifact_location=own)
    parent = _parent(client, identifier, report)
    children = {
        run.info.run_name: run.info.run_id
        for run in client.search_runs([identifier], f"attributes.run_name LIKE '{report.name}-%'", max_results=50_000)
    }
    for trial in report.trials:
        run = children.get(trial.name)
        if run is not None:
            _adopt(client, run, parent, report.name, trial)
    if report.best is not None:
        for key, value in report.best.parameters.items():
            client.log_param(parent, f"best.{key}", str(value)[:_PARAMETER_LENGTH])
        for key, value in report.best.metrics.items():
            # Names in MLflow hold no @.
            client.log_metric(parent, key.replace("@", "_at_"), value)
        client.set_tag(parent, "slipway.best_trial", report.best.name)
    client.set_terminated(parent, "FINISHED" if report.status == "done" else "FAILED")


def _parent(client: Any, experiment: str, report: SweepReport) -> str:
    found = client.search_runs([experiment], f"tags.`{SWEEP_TAG}` = '{report.name}' and tags.`slipway.step` = 'tune'")
    if found:
        # Parameters of a run cannot change, and the best trial of a longer sweep may be another.
        client.delete_run(found[0].info.run_id)
    tags = {SWEEP_TAG: report.name, "slipway.step": "tune", "slipway.objective": report.metric}
    run: str = client.create_run(experiment, run_name=report.name, tags=tags).info.run_id
    return run


def _adopt(client: Any, run: str, parent: str, sweep: str, trial: TrialRecord) -> None:
    client.set_tag(run, PARENT_TAG, parent)
    client.set_tag(run, SWEEP_TAG, sweep)
    client.set_tag(run, "slipway.trial_status", trial.status)
    for key, value in trial.metrics.items():
        client.log_metric(run, key.replace("@", "_at_"), value)
