"""How a trial runs on a cluster: a Job, or a TrainJob through a training runtime, with the project's pod settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.components.tune.parameters import FOLDER_VARIABLE, REASON_VARIABLE
from slipway.contracts.project import Project
from slipway.contracts.project.kubernetes import PlacementSpec
from slipway.contracts.project.sweep import SweepSpec
from slipway.pipelines.kubernetes.pods import (
    PodSettings,
    pod_settings,
    pod_template,
    project_volume,
    uses_own_modules,
    with_store,
)

TRIAL_NAME = "trialName"
SWEEP_LABEL = "slipway.dev/sweep"
# The name that the training runtimes of the Trainer give to their container.
TRAIN_JOB_CONTAINER = "node"
JOB_CONTAINER = "trial"
COMMAND = ("python", "-m", "slipway.components.tune", "--run-id", f"${{trialParameters.{TRIAL_NAME}}}")

_SUCCEEDED = 'status.conditions.#(type=="Complete")#|#(status=="True")#'
_FAILED = 'status.conditions.#(type=="Failed")#|#(status=="True")#'
# A finished trial's Job stays this long, so that whoever follows the sweep can read why one failed.
KEPT_SECONDS = 900
_TERMINATION_MESSAGE = "/dev/termination-log"
_SCRATCH = "/tmp"  # noqa: S108 - the pod's own empty folder
# A mesh's sidecar would never end, and with it the pod.
_WITHOUT_SIDECARS = {"sidecar.istio.io/inject": "false"}


def trial_template(
    project: Project,
    sweep: SweepSpec,
    variables: Mapping[str, str],
    *,
    features: str,
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the fields of the Experiment's trial template, without its parameters.

    Args:
        project: The project file.
        sweep: Its sweep.
        variables: Environment of the trial, with placeholders of the parameters.
        features: Where the features of the sweep are, as a pod sees it.
        labels: Of the pods.
    """
    settings = _pods(project, features)
    settings = settings.model_copy(update={"placement": merged(settings.placement, sweep.trial.resources)})
    train_job = sweep.trial.kind == "TrainJob"
    container = TRAIN_JOB_CONTAINER if train_job else JOB_CONTAINER
    environment = {
        **variables,
        FOLDER_VARIABLE: _SCRATCH,
        REASON_VARIABLE: _TERMINATION_MESSAGE,
        "HOME": _SCRATCH,
        "PYTHONUNBUFFERED": "1",
    }
    template = pod_template(settings, name=container, command=COMMAND, environment=environment)
    template["metadata"] = {"annotations": dict(_WITHOUT_SIDECARS), "labels": dict(labels)}
    make = _train_job if train_job else _job
    fields: dict[str, Any] = {
        "primary_container_name": container,
        "success_condition": _SUCCEEDED,
        "failure_condition": _FAILED,
        # Jobs go by themselves in a while (KEPT_SECONDS); a TrainJob knows no such time.
        "retain": not train_job,
        "trial_spec": make(sweep, template),
    }
    if train_job:
        fields["primary_pod_labels"] = {
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": "0",
        }
    return fields


def _pods(project: Project, features: str) -> PodSettings:
    """Returns the pods of trials: with keys for the object store, or the project's volume, only if they read there."""
    settings = pod_settings(project, "tune")
    if not features.startswith("s3://"):
        return settings
    settings = with_store(settings, project)
    if uses_own_modules(project) or project.evaluation.candidates != "all":
        return settings
    shared = project_volume(project)
    return settings.model_copy(update={"volumes": tuple(volume for volume in settings.volumes if volume != shared)})


def merged(base: PlacementSpec, own: PlacementSpec) -> PlacementSpec:
    """Returns what a trial asks for: its own fields over those of the step; selectors and tolerations are added up."""
    return PlacementSpec(
        cpu=own.cpu or base.cpu,
        memory=own.memory or base.memory,
        gpu=own.gpu or base.gpu,
        node_selector={**base.node_selector, **own.node_selector},
        tolerations=tuple(dict.fromkeys((*base.tolerations, *own.tolerations))),
        spot=own.spot if own.spot is not None else base.spot,
    )


def _job(sweep: SweepSpec, template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            # A trial that fails is one failed trial: Katib counts them, and a retry would hide it.
            "backoffLimit": 0,
            "activeDeadlineSeconds": _seconds(sweep),
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": template,
        },
    }


def _train_job(sweep: SweepSpec, template: dict[str, Any]) -> dict[str, Any]:
    pod = template["spec"]
    container = pod["containers"][0]
    patch = {
        "containers": [
            {
                "name": container["name"],
                "securityContext": container["securityContext"],
                "volumeMounts": container["volumeMounts"],
            }
        ],
        "volumes": pod["volumes"],
        "securityContext": pod["securityContext"],
    }
    patch |= {
        name: pod[name]
        for name in ("nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName")
        if name in pod
    }
    pods = {"template": {"metadata": template["metadata"], "spec": patch}}
    jobs = [{"name": "node", "template": {"spec": pods}}]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "spec": {
            "runtimeRef": {"name": sweep.trial.runtime},
            "activeDeadlineSeconds": _seconds(sweep),
            "trainer": {
                "numNodes": 1,
                "numProcPerNode": 1,
                "image": container["image"],
                "command": list(COMMAND),
                "env": container["env"],
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [
                {
                    "manager": "slipway.dev/tune",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
                }
            ],
        },
    }


def _seconds(sweep: SweepSpec) -> int:
    return max(1, round(sweep.trial.timeout.total_seconds()))
