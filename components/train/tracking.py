"""Parameters and curves of a training as a run in MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.models.mlflow_client import check_reachable, quiet_mlflow
from slipway.models.registry import registry_for

_PARAMETER_LENGTH = 500


@dataclass(frozen=True)
class TrackedRun:
    """What is told to MLflow. `curves`: one mapping an epoch, with its number under "epoch"."""

    experiment: str
    name: str
    parameters: Mapping[str, Any]
    curves: Sequence[Mapping[str, float]]
    tags: Mapping[str, str]


def track(run: TrackedRun, project_directory: Path, tracking_uri: str | None) -> str | None:
    """Writes a run to MLflow.

    Returns:
        None, or why it could not be written: results never depend on MLflow.
    """
    registry = registry_for(project_directory, tracking_uri)
    try:
        check_reachable(registry.tracking_uri)
        with quiet_mlflow(), registry.alone():
            _write(run, registry.tracking_uri, registry.artifact_root)
    except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the training is done and kept
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return f"{type(error).__name__}: {reason}"
    return None


def _write(run: TrackedRun, uri: str, artifact_root: Path | None) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(run.experiment)
    if experiment is not None:
        identifier = experiment.experiment_id
    elif uri.startswith("sqlite:") and artifact_root is not None:
        identifier = client.create_experiment(run.experiment, artifact_location=artifact_root.as_uri())
    else:
        identifier = client.create_experiment(run.experiment)
    tracked = client.create_run(identifier, run_name=run.name, tags=dict(run.tags))
    now = int(time.time() * 1000)
    metrics = [
        # Names in MLflow hold no @.
        Metric(name.replace("@", "_at_"), value, now, int(point["epoch"]))
        for point in run.curves
        for name, value in point.items()
        if name != "epoch"
    ]
    parameters = [Param(name, str(value)[:_PARAMETER_LENGTH]) for name, value in run.parameters.items()]
    client.log_batch(tracked.info.run_id, params=parameters, tags=[RunTag("slipway.step", "train")])
    for start in range(0, len(metrics), 1000):
        client.log_batch(tracked.info.run_id, metrics=metrics[start : start + 1000])
    client.set_terminated(tracked.info.run_id)
