"""Training by itself as a TrainJob of Kubeflow Trainer (v2, trainer.kubeflow.org/v1alpha1): several pods, one model.

The pods run the train step's own command. The Trainer's torch runtime gives them PET_NNODES, PET_NPROC_PER_NODE,
PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, from which the step learns how many processes train and where they
meet. Features and model are in the object store, or on the project's volume, whose claim then must be one that many
nodes can write if there are several. So are checkpoints.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from slipway.contracts.durations import format_duration
from slipway.contracts.errors import UsageError
from slipway.contracts.files import canonical_json, sha256_of
from slipway.contracts.project import Project
from slipway.models.families import FAMILIES, load_family
from slipway.pipelines.kubernetes.pods import (
    PodSettings,
    checkpoint_location,
    pod_settings,
    pod_template,
    project_volume,
    with_cluster_checkpoints,
    with_store,
)

API_VERSION = "trainer.kubeflow.org/v1alpha1"
COMMAND = ("python", "-m", "slipway.components.train")
# The name that the training runtimes of the Trainer give to their container, and to the job of the nodes.
CONTAINER = "node"
S3 = "s3://"
MANAGER = "slipway.dev/train"
SECONDS_OF_GRACE = 900

_SCRATCH = "/tmp"  # noqa: S108 - the pod's own empty folder
# Pods are named <name>-node-0-<index>, and a name of a host has 63 characters.
_NAME_LENGTH = 48
_DIGITS = 12


def train_job(project: Project, features: str, output: str) -> dict[str, Any]:
    """Returns the TrainJob that trains the project's model once; the same arguments give the same object.

    Args:
        project: The project file.
        features: The `features` artifact: `s3://bucket/prefix`, or a folder relative to the project's volume.
        output: Where the model's bundle goes, likewise.

    Raises:
        UsageError: A path leaves the volume, the family trains in one process, or GPUs and processes do not fit.
    """
    training = project.training
    places = _in_pod(project, features, "--features"), _in_pod(project, output, "--output")
    settings = _settings(project, places)
    _check(project, settings)
    command = _command(project, *places)
    environment = {"HOME": _SCRATCH, "PYTHONUNBUFFERED": "1"}
    template = pod_template(settings, name=CONTAINER, command=command, environment=environment)
    container = template["spec"]["containers"][0]
    spec = {
        "runtimeRef": {"name": training.train_job.runtime},
        "activeDeadlineSeconds": round(project.step("train").timeout.total_seconds()) + SECONDS_OF_GRACE,
        "trainer": {
            "numNodes": training.train_job.nodes,
            "numProcPerNode": training.processes,
            "image": container["image"],
            "command": list(command),
            "env": container["env"],
            "resourcesPerNode": container["resources"],
        },
        "runtimePatches": [_patch(template["spec"])],
    }
    digest = sha256_of(canonical_json(spec))[:_DIGITS]
    prefix = f"train-{project.name}"[: _NAME_LENGTH - _DIGITS - 1].rstrip("-")
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {
            "name": f"{prefix}-{digest}",
            "namespace": project.kubernetes.namespace,
            "labels": {"app.kubernetes.io/managed-by": "slipway", "app.kubernetes.io/part-of": project.name},
        },
        "spec": spec,
    }


def _settings(project: Project, places: tuple[str, str]) -> PodSettings:
    settings, shared = pod_settings(project, "train"), project_volume(project)
    if any(place.startswith(S3) for place in places) and not checkpoint_location(project).startswith(S3):
        settings = with_store(settings, project)
    if all(place.startswith(S3) for place in places) or shared in settings.volumes:
        return settings
    return settings.model_copy(update={"volumes": (shared, *settings.volumes)})


def _command(project: Project, features: str, output: str) -> tuple[str, ...]:
    checkpoints = with_cluster_checkpoints(project).training.checkpoints
    arguments = {
        "features": features,
        "output": output,
        "name": project.name,
        "model": _json(project.model.model_dump(mode="json")),
        "project_directory": project.kubernetes.project.mount,
        "checkpoints": _json(checkpoints.model_dump(mode="json")),
        "timeout": format_duration(project.step("train").timeout),
        "outcome": f"{_SCRATCH}/outcome",
    }
    if project.tracking.uri is not None:
        arguments["tracking_uri"] = project.tracking.uri
    return (*COMMAND, *(part for name, value in arguments.items() for part in (f"--{name}", value)))


def _patch(pod: dict[str, Any]) -> dict[str, Any]:
    """Returns what the Trainer lets a TrainJob change of its runtime's pods."""
    container = pod["containers"][0]
    spec: dict[str, Any] = {
        "containers": [{name: container[name] for name in ("name", "securityContext", "volumeMounts")}],
        "volumes": pod["volumes"],
        "securityContext": pod["securityContext"],
    }
    for name in ("nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName"):
        if name in pod:
            spec[name] = pod[name]
    # A mesh's sidecar would never end, and with it the pod.
    pods = {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}, "spec": spec}
    jobs = [{"name": CONTAINER, "template": {"spec": {"template": pods}}}]
    return {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}


def _in_pod(project: Project, path: str, option: str) -> str:
    """Returns an address as it is, and a folder of the project's volume as the pod sees it."""
    if path.startswith(S3):
        return path
    given = PurePosixPath(path)
    if "://" in path or given.is_absolute() or ".." in given.parts or not given.parts:
        raise UsageError(
            f"{path!r} is no folder of the project's volume",
            where=option,
            remedy=f"Name it relative to the volume that is mounted at {project.kubernetes.project.mount}, or by s3://.",
        )
    return f"{project.kubernetes.project.mount}/{given}"


def _check(project: Project, settings: PodSettings) -> None:
    training, gpu = project.training, settings.placement.gpu
    family, size = project.model.family, training.processes * training.train_job.nodes
    if size > 1 and family in FAMILIES and not load_family(family).distributed:
        raise UsageError(
            f"{family} trains in one process, and {size} were asked for",
            where="training",
            remedy="Leave training.processes and training.train_job.nodes out, or choose "
            "neural_collaborative_filtering.",
        )
    if gpu is not None and gpu.count != training.processes:
        raise UsageError(
            f"a pod has {gpu.count} GPUs and {training.processes} processes",
            where="training.processes",
            remedy=f"Set training.processes to {gpu.count}, or kubernetes.steps.train.gpu.count to "
            f"{training.processes}: each process computes on a GPU of its own.",
        )
    location = checkpoint_location(project)
    if "://" not in location and (location.startswith(("/", "~")) or ".." in location.split("/")):
        raise UsageError(
            f"{location!r} is a path of this machine, which no pod has",
            where="training.checkpoints.location",
            remedy="Use s3://bucket/prefix, or a folder relative to the project file.",
        )
    reserved = sorted(name for secret in settings.secrets for name in secret.env if name.startswith("PET_"))
    if reserved:
        raise UsageError(
            f"{reserved[0]} is a variable of the Trainer's own",
            where="kubernetes.secrets",
            remedy="Give the variable another name.",
        )


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
