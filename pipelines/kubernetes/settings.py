"""From a project file to the settings of its pipelines on a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slipway.contracts.durations import format_duration
from slipway.contracts.errors import UsageError
from slipway.contracts.evaluation import GateSpec
from slipway.contracts.project import Project
from slipway.contracts.project.kubernetes import ClusterStep
from slipway.contracts.project.schedules import PipelineName
from slipway.pipelines.kubernetes.pods import pod_settings, with_cluster_checkpoints
from slipway.pipelines.settings import StepSettings, step_settings, training_settings
from slipway.pipelines.tasks import PipelineSettings

BUILDERS: Mapping[PipelineName, str] = {
    "training": "slipway.pipelines.training:build_training",
    "retraining": "slipway.pipelines.training:build_training",
    "batch_prediction": "slipway.pipelines.batch_prediction:build_batch_prediction",
}
"""`module:function` of each pipeline; the function takes PipelineSettings as a dict."""

STORE = "s3://"


def cluster_settings(project: Project, pipeline: PipelineName = "training") -> PipelineSettings:
    """Returns the settings of a pipeline on a cluster; nothing in them is of this machine.

    Raises:
        UsageError: The project has no such pipeline, or a source cannot be read by a pod.
    """
    folder = project.kubernetes.project.mount
    if pipeline == "batch_prediction":
        steps = _batch_steps(project, folder)
    else:
        steps = _training_steps(project if pipeline == "training" else retraining_project(project), folder, pipeline)
    name = project.name if pipeline == "training" else f"{project.name}-{pipeline.replace('_', '-')}"
    notification = project.kubernetes.notification
    told = None
    if notification is not None:
        content = {
            "project": project.name,
            "pipeline": pipeline,
            "when": list(notification.when),
            "webhook": notification.webhook is not None,
            "sender": notification.mail.sender if notification.mail else None,
            "to": list(notification.mail.to) if notification.mail else [],
        }
        told = json.dumps(content, sort_keys=True)
        steps["notify"] = step_settings(project, "notify", {}, {})
    return PipelineSettings(
        name=name,
        steps={step: _with_retries(project, step, own) for step, own in steps.items()},
        pods={step: pod_settings(project, _kind(step)) for step in steps},
        notification=told,
    )


def retraining_project(project: Project) -> Project:
    """Returns the project with the gate of its retraining: not behind the version that serves.

    A gate of the file against the champion on the same metric stands instead.
    """
    spec = project.retraining
    metric = spec.metric or f"ndcg@{project.evaluation.k[0]}"
    if any(gate.against == "champion" and gate.metric == metric for gate in project.gates):
        return project
    gate = GateSpec.model_validate({"metric": metric, "against": "champion", "minimum_change": -spec.tolerance})
    changed = project.model_copy(update={"gates": (*project.gates, gate)})
    return changed.located_at(project.path)


def _training_steps(project: Project, folder: str, pipeline: PipelineName) -> dict[str, StepSettings]:
    data = project.data
    specs = {"interactions": data.interactions, "items": data.items, "users": data.users}
    tables = {name: spec.source for name, spec in specs.items() if spec is not None}
    _check_sources({f"data.{name}.source": source for name, source in tables.items()})
    if project.evaluation.candidates != "all" and "://" in project.evaluation.candidates:
        raise UsageError(
            "candidates are read from the project's folder only",
            where="evaluation.candidates",
            remedy=f"Put the table on the volume that is mounted at {folder}, and name it by its relative path.",
        )
    window = project.retraining.window if pipeline == "retraining" else None
    interactions = data.interactions.model_dump(mode="json", by_alias=True)
    return {
        "observe": _observe(project, tables, folder, window=format_duration(window) if window is not None else None),
        "extract": step_settings(
            project, "extract", {"tables": tables, "interactions": interactions}, {"base": folder}
        ),
        **training_settings(with_cluster_checkpoints(project), folder=folder),
    }


def _batch_steps(project: Project, folder: str) -> dict[str, StepSettings]:
    spec = project.batch_prediction
    if spec is None:
        raise UsageError(
            "the project file does not say what to predict for",
            where="batch_prediction",
            remedy="Add: batch_prediction: {input: users.parquet}",
        )
    tables = {"input": spec.input} | ({"candidates": spec.candidates} if spec.candidates is not None else {})
    _check_sources({f"batch_prediction.{name}": source for name, source in tables.items()})
    columns = project.data.interactions.columns
    config = {
        "k": spec.k,
        "exclude_seen": spec.exclude_seen,
        "user_columns": list(dict.fromkeys(("user", columns.user))),
        "item_columns": list(dict.fromkeys(("item", columns.item))),
    }
    return {
        "observe": _observe(project, tables, folder, alias=spec.alias, required=True),
        "extract": step_settings(project, "extract", {"tables": tables}, {"base": folder}),
        "batch_predict": step_settings(project, "batch_predict", config, {"project_directory": folder}),
    }


def _observe(project: Project, tables: Mapping[str, str], folder: str, **fields: Any) -> StepSettings:
    return step_settings(
        project,
        "observe",
        {"tables": dict(tables), "name": project.name, **{name: value for name, value in fields.items() if value}},
        {"base": folder, "project_directory": folder, "tracking_uri": project.tracking.uri},
    )


def _with_retries(project: Project, step: str, settings: StepSettings) -> StepSettings:
    """Returns the settings with the cluster's retries, where the file says none for this very step."""
    retry = project.kubernetes.retry
    said = next((spec.model_fields_set for name, spec in project.steps.items() if name == step), set())
    changes: dict[str, Any] = {"maximum_backoff": format_duration(retry.maximum_backoff)}
    if "retries" not in said:
        changes["retries"] = retry.retries
    if "retry_backoff" not in said:
        changes["retry_backoff"] = format_duration(retry.backoff)
    return settings.model_copy(update=changes)


def _check_sources(sources: Mapping[str, str]) -> None:
    for field, source in sources.items():
        scheme = source.partition("://")[0] if "://" in source else None
        if scheme not in (None, "s3", "samples"):
            raise UsageError(f"pods cannot read {scheme}://", where=field, remedy="Use s3://bucket/path/.")
        if scheme is None and (source.startswith(("/", "~")) or ".." in source.split("/")):
            raise UsageError(
                f"{source!r} is a path of this machine, which no pod has",
                where=field,
                remedy="Use s3://bucket/path/, or a path relative to the project file, on the project's volume.",
            )


def _kind(step: str) -> ClusterStep:
    return step  # type: ignore[return-value]
