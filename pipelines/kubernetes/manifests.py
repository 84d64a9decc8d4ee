"""Objects that put a pipeline into a cluster and start it: all by `kubectl apply -f`, all the same bytes each time.

A run cannot be declared to Kubeflow Pipelines: it has no custom resource for one, and a raw workflow is ignored or
removed. So a run is an immutable Job, named by what it would run, which submits it through the API. The Job has no time
to live: a GitOps tool that found it missing would make it, and with it the run, again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from slipway.contracts.files import canonical_json, sha256_of
from slipway.contracts.project import Project
from slipway.contracts.project.schedules import ScheduleSpec
from slipway.pipelines.compile import VERSION_DIGITS, CompiledPipeline
from slipway.pipelines.kubernetes.pods import PodSettings, pod_settings, pod_template
from slipway.pipelines.submission.submit import SCHEDULED

GROUP = "pipelines.kubeflow.org/v2beta1"
TOKEN_FOLDER = "/var/run/secrets/kubeflow/pipelines"  # noqa: S105 - a place, not a password
TOKEN_AUDIENCE = "pipelines.kubeflow.org"  # noqa: S105
SUBMISSION = ("python", "-m", "slipway.pipelines.submission")
SECONDS_OF_GRACE = 120

# A name of a Job is a label of its pods, and a CronJob adds eleven characters to its own.
_JOB_NAME = 63
_CRON_JOB_NAME = 52
# Argo CD applies these one after the other; kubectl applies them in the order of the file.
_WAVE = "argocd.argoproj.io/sync-wave"


def pipeline_manifests(project: Project, compiled: CompiledPipeline) -> list[dict[str, Any]]:
    """Returns the Pipeline and the PipelineVersion of a compiled pipeline."""
    namespace = project.kubernetes.namespace
    description = str(compiled.specification["pipelineInfo"].get("description", ""))
    spec: dict[str, Any] = {
        "description": description,
        "pipelineName": compiled.name,
        "displayName": compiled.version,
        "pipelineSpec": compiled.specification,
    }
    if compiled.platform:
        spec["platformSpec"] = compiled.platform
    return [
        {
            "apiVersion": GROUP,
            "kind": "Pipeline",
            "metadata": _metadata(project, compiled.name, namespace, wave=0),
            "spec": {"displayName": compiled.name, "description": description},
        },
        {
            "apiVersion": GROUP,
            "kind": "PipelineVersion",
            "metadata": _metadata(project, compiled.version, namespace, wave=1),
            "spec": spec,
        },
    ]


def run_manifest(
    project: Project, compiled: CompiledPipeline, parameters: Mapping[str, Any] | None = None, label: str = ""
) -> dict[str, Any]:
    """Returns the Job that starts one run of a compiled pipeline.

    Args:
        project: The project file.
        compiled: The pipeline.
        parameters: Of the run.
        label: Tells runs of the same version and parameters apart; the same label is the same run.
    """
    name = run_name(compiled, parameters, label)
    arguments = [
        "run",
        "--version",
        compiled.version,
        "--run-name",
        name,
        "--parameters",
        json.dumps(dict(parameters or {}), sort_keys=True),
    ]
    return _job(project, compiled, _short(name, _JOB_NAME), arguments, wave=2)


def schedule_manifests(
    project: Project, compiled: CompiledPipeline, schedules: Sequence[ScheduleSpec]
) -> list[dict[str, Any]]:
    """Returns the objects of the schedules that run this pipeline.

    One with `scheduler: kubernetes` is a CronJob that submits runs; one with `scheduler: kubeflow` is a Job that makes
    the recurring run in Kubeflow Pipelines, as that too has to go through the API.
    """
    made = []
    for schedule in schedules:
        if schedule.pipeline != compiled.pipeline:
            continue
        prefix = f"{compiled.name}-{schedule.name}"
        if schedule.scheduler == "kubeflow":
            # Seconds come first in Kubeflow Pipelines' expressions. Such a run is not told when it was due: its marks
            # for times ([[ScheduledTime]]) reach the steps as they stand, and a window ends when the run begins.
            fields = {"cron": f"0 {schedule.cron}", "concurrency": schedule.maximum_concurrency}
            fields["catch_up"], fields["enabled"] = schedule.catch_up == "all", not schedule.suspended
            digest = sha256_of(canonical_json([compiled.version, fields]))[:VERSION_DIGITS]
            arguments = ["schedule", "--version", compiled.version, "--prefix", prefix, "--name", f"{prefix}-{digest}"]
            arguments += ["--schedule", json.dumps(fields, sort_keys=True)]
            made.append(_job(project, compiled, _short(f"schedule-{prefix}-{digest}", _JOB_NAME), arguments, wave=2))
        else:
            made.append(_cron_job(project, compiled, schedule, prefix))
    return made


def to_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    """Returns objects as one YAML file with sorted keys, in plain ASCII.

    Every text that a reader of YAML 1.1 could take for something else is quoted, names of parameters too.
    """
    return "".join("---\n" + yaml.safe_dump(dict(made), sort_keys=True, width=2**20) for made in objects)


def run_name(compiled: CompiledPipeline, parameters: Mapping[str, Any] | None = None, label: str = "") -> str:
    """Returns the name of the run of a version with these parameters; the same ones give the same name."""
    digest = sha256_of(canonical_json([compiled.version, dict(parameters or {}), label]))[:VERSION_DIGITS]
    return f"run-{compiled.name}-{digest}"


def _scheduled(schedule: ScheduleSpec) -> dict[str, Any]:
    return {"window_end": SCHEDULED} if schedule.pipeline == "retraining" else {}


def _job(
    project: Project, compiled: CompiledPipeline, name: str, arguments: Sequence[str], *, wave: int
) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(project, name, project.kubernetes.namespace, wave=wave),
        "spec": _job_spec(project, compiled, arguments),
    }


def _job_spec(project: Project, compiled: CompiledPipeline, arguments: Sequence[str]) -> dict[str, Any]:
    # The run's own limits are those of its steps; the Job only hands it over.
    spec = project.kubernetes
    settings = pod_settings(project, "submit").model_copy(update={"secrets": (), "volumes": (), "environment": {}})
    command = [*SUBMISSION, arguments[0], "--api", spec.api, "--namespace", spec.namespace]
    command += ["--pipeline", compiled.name, *arguments[1:]]
    if spec.pipeline_root is not None:
        command += ["--pipeline-root", f"{spec.pipeline_root.rstrip('/')}/{compiled.name}"]
    if spec.service_account is not None:
        command += ["--service-account", spec.service_account]
    return {
        "backoffLimit": 6,
        # What is wrongly written stays wrong: these exit codes are not tried again.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "submit", "operator": "In", "values": [2, 3]},
                }
            ]
        },
        "template": _submission_pod(project, compiled, settings, command),
    }


def _submission_pod(
    project: Project, compiled: CompiledPipeline, settings: PodSettings, command: Sequence[str]
) -> dict[str, Any]:
    template = pod_template(
        settings,
        name="submit",
        command=command,
        environment={"KF_PIPELINES_SA_TOKEN_PATH": f"{TOKEN_FOLDER}/token"},
        labels=_labels(project) | {"slipway.dev/pipeline": compiled.name, "sidecar.istio.io/inject": "false"},
    )
    pod = template["spec"]
    container = pod["containers"][0]
    container["env"].append(
        {
            "name": "SLIPWAY_JOB_NAME",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}},
        }
    )
    container["volumeMounts"].append({"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True})
    source = {"path": "token", "audience": TOKEN_AUDIENCE, "expirationSeconds": 3600}
    pod["volumes"].append({"name": "token", "projected": {"sources": [{"serviceAccountToken": source}]}})
    return template


def _cron_job(project: Project, compiled: CompiledPipeline, schedule: ScheduleSpec, prefix: str) -> dict[str, Any]:
    arguments = ["run", "--version", compiled.version, "--schedule", prefix, "--overlap", schedule.overlap]
    arguments += ["--maximum-concurrency", str(schedule.maximum_concurrency)]
    arguments += ["--parameters", json.dumps(_scheduled(schedule), sort_keys=True)]
    late = SECONDS_OF_GRACE if schedule.catch_up == "none" else round(schedule.catch_up_within.total_seconds())
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(project, _short(prefix, _CRON_JOB_NAME), project.kubernetes.namespace, wave=2),
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone,
            # Of the Jobs that submit, which take seconds; what runs may overlap is decided on submission.
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": max(late, SECONDS_OF_GRACE),
            "suspend": schedule.suspended,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": _labels(project)}, "spec": _job_spec(project, compiled, arguments)},
        },
    }


def _metadata(project: Project, name: str, namespace: str, *, wave: int) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": namespace,
        "labels": _labels(project),
        "annotations": {_WAVE: str(wave)},
    }


def _labels(project: Project) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "slipway", "app.kubernetes.io/part-of": project.name}


def _short(name: str, size: int) -> str:
    """Returns a name that fits, still another one for another name."""
    if len(name) <= size:
        return name
    digest = sha256_of(name)[:VERSION_DIGITS]
    return f"{name[: size - VERSION_DIGITS - 1].rstrip('-.')}-{digest}"
