"""A sweep in MLflow: one run for it, and a run for each of its trials below."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from slipway.contracts.project import Project
from slipway.models.mlflow_client import check_reachable, quiet_mlflow
from slipway.models.registry import registry_for
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "slipway.sweep"
STATUS_TAG = "slipway.trial_status"
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
    known = {
        run.info.run_name: run
        for run in client.search_runs([identifier], f"attributes.run_name LIKE '{report.name}-%'", max_results=50_000)
    }
    for trial in report.trials:
        run = known.get(trial.name)
        if run is not None and run.data.tags.get(STATUS_TAG) != trial.status:
            # What was told before is of an earlier start of this trial.
            client.delete_run(run.info.run_id)
            run = None
        if run is None:
            _write_trial(client, identifier, parent, report, trial)
        else:
            client.set_tag(run.info.run_id, PARENT_TAG, parent)
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


def _write_trial(client: Any, experiment: str, parent: str, report: SweepReport, trial: TrialRecord) -> None:
    from mlflow.entities import Metric, Param

    tags = {PARENT_TAG: parent, SWEEP_TAG: report.name, "slipway.step": "trial", STATUS_TAG: trial.status}
    if trial.error is not None:
        tags["slipway.trial_error"] = trial.error[:_PARAMETER_LENGTH]
    run = client.create_run(experiment, run_name=trial.name, tags=tags).info.run_id
    now = int(time.time() * 1000)
    points = [(report.metric, value, step) for step, value in enumerate(trial.curve, start=1)]
    points += [(name, value, len(trial.curve)) for name, value in trial.metrics.items() if name != report.metric]
    if not trial.curve and trial.value is not None:
        points.append((report.metric, trial.value, 0))
    # Names in MLflow hold no @.
    metrics = [Metric(name.replace("@", "_at_"), value, now, step) for name, value, step in points]
    params = [Param(name, str(value)[:_PARAMETER_LENGTH]) for name, value in trial.parameters.items()]
    client.log_batch(run, metrics=metrics[:1000], params=params)
    for start in range(1000, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[start : start + 1000])
    client.set_terminated(run, "FAILED" if trial.status in ("Failed", "MetricsUnavailable") else "FINISHED")
