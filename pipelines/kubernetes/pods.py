"""The settings of a step's pod: one pure function from the project file, for pipelines, sweeps and Jobs alike.

settings = pod_settings(project, "train")
apply_to_task(task, settings)                       # a task of Kubeflow Pipelines
pod_template(settings, command=["python", ...])     # the pod of a Job, a trial or a TrainJob
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.notify.step import SMTP_VARIABLE, WEBHOOK_VARIABLE
from slipway.contracts.project import Project
from slipway.contracts.project.kubernetes import (
    ClusterStep,
    PlacementSpec,
    S3Spec,
    SecretSpec,
    VolumeSpec,
)
from slipway.contracts.project.schema import STATE_FOLDER
from slipway.pipelines.kubernetes.images import image_references

# Steps that read or write what the steps of all runs share: the registry's bundles and versions.
STEPS_WITH_REGISTRY: frozenset[ClusterStep] = frozenset(
    {"observe", "train", "evaluate", "register", "batch_predict", "release", "tune"}
)
# Steps that read or write the object store themselves; artifacts are Kubeflow Pipelines' own business.
STEPS_WITH_STORE: frozenset[ClusterStep] = frozenset({"observe", "extract"})
STEPS_WITH_STORED_BUNDLES: frozenset[ClusterStep] = frozenset({"evaluate", "register", "batch_predict", "release"})
# Numeric, so that `runAsNonRoot` can be checked; the images are built for this user.
USER = 65532


class PodSettings(BaseModel):
    """What a step's pod is told, whoever makes the pod. `environment` holds plain values, `secrets` references."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    pull_policy: str | None = None
    pull_secrets: tuple[str, ...] = ()
    placement: PlacementSpec = PlacementSpec()
    environment: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[SecretSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    service_account: str | None = None


def pod_settings(project: Project, step: ClusterStep) -> PodSettings:
    """Returns the settings of a step's pod; the same project gives the same settings.

    Args:
        project: The project file.
        step: The kind of step.
    """
    spec = project.kubernetes
    secrets = [secret for secret in spec.secrets if secret.steps is None or step in secret.steps]
    environment: dict[str, str] = {}
    bundles_stored = spec.bundle_root is not None and step in STEPS_WITH_STORED_BUNDLES
    checkpoints_stored = step == "train" and checkpoint_location(project).startswith("s3://")
    if spec.s3 is not None and (step in STEPS_WITH_STORE or bundles_stored or checkpoints_stored):
        secrets += _store_secrets(spec.s3)
        environment = _store_environment(spec.s3)
    if step == "notify" and spec.notification is not None:
        webhook, mail = spec.notification.webhook, spec.notification.mail
        if webhook is not None:
            secrets.append(SecretSpec(secret=webhook.secret, env={WEBHOOK_VARIABLE: webhook.key}))
        if mail is not None:
            secrets.append(SecretSpec(secret=mail.server.secret, env={SMTP_VARIABLE: mail.server.key}))
    volumes = [volume for volume in spec.volumes if volume.steps is None or step in volume.steps]
    shared = step in STEPS_WITH_REGISTRY and not keeps_registry_elsewhere(project)
    shared = shared or (step == "train" and not checkpoint_location(project).startswith("s3://"))
    if shared or (reads_project_folder(project) and step not in ("notify", "submit")):
        volumes.insert(0, project_volume(project))
    return PodSettings(
        image=image_references(project)[step],
        pull_policy=spec.images.pull_policy,
        pull_secrets=spec.images.pull_secrets,
        placement=_placement(project, step),
        environment=dict(sorted(environment.items())),
        secrets=tuple(secrets),
        volumes=tuple(volumes),
        service_account=spec.service_account,
    )


def with_store(settings: PodSettings, project: Project) -> PodSettings:
    """Returns the settings with address and keys of the project's object store, if it has one."""
    s3 = project.kubernetes.s3
    if s3 is None:
        return settings
    return settings.model_copy(
        update={
            "environment": dict(sorted({**settings.environment, **_store_environment(s3)}.items())),
            "secrets": (*settings.secrets, *_store_secrets(s3)),
        }
    )


def _placement(project: Project, step: ClusterStep) -> PlacementSpec:
    place = project.kubernetes.placement(step)
    if step not in ("submit", "notify"):
        return place
    # What only sends a message needs no share of what the steps get.
    own = project.kubernetes.steps.get(step, PlacementSpec())
    return place.model_copy(update={"cpu": own.cpu or "50m", "memory": own.memory or "256Mi", "gpu": own.gpu})


def project_volume(project: Project) -> VolumeSpec:
    """Returns the volume that the steps share; its claim is `<project>-project` unless the file names one."""
    spec = project.kubernetes.project
    return VolumeSpec(claim=spec.claim or f"{project.name}-project", mount=spec.mount, sub_path=spec.sub_path)


def keeps_registry_elsewhere(project: Project) -> bool:
    """Returns whether versions are on an MLflow server and bundles in the object store: no folder is shared then."""
    uri = project.tracking.uri or ""
    return project.kubernetes.bundle_root is not None and not uri.startswith("sqlite:") and uri != ""


def checkpoint_location(project: Project) -> str:
    """Returns where trainings on a cluster keep their state: what the file says, else beside the bundles.

    A folder is relative to the project's volume.
    """
    said, bundles = project.training.checkpoints.location, project.kubernetes.bundle_root
    if said is not None:
        return said
    return f"{STATE_FOLDER}/checkpoints" if bundles is None else f"{bundles.removesuffix('/bundles')}/checkpoints"


def with_cluster_checkpoints(project: Project) -> Project:
    """Returns the project with the place of checkpoints as its pods know it."""
    checkpoints = project.training.checkpoints.model_copy(update={"location": checkpoint_location(project)})
    training = project.training.model_copy(update={"checkpoints": checkpoints})
    return project.model_copy(update={"training": training}).located_at(project.path)


def reads_project_folder(project: Project) -> bool:
    """Returns whether a step needs files of the project itself: own modules, sources or candidates beside its file."""
    data, batch = project.data, project.batch_prediction
    sources = [spec.source for spec in (data.interactions, data.items, data.users) if spec is not None]
    sources += [source for source in (batch.input, batch.candidates) if source is not None] if batch is not None else []
    sources += [] if project.evaluation.candidates == "all" else [project.evaluation.candidates]
    return uses_own_modules(project) or any("://" not in source for source in sources)


def uses_own_modules(project: Project) -> bool:
    """Returns whether the model or a view is a `module:name` of the project's own folder."""
    return any(":" in name for name in (project.model.family, *project.features.views))


def apply_to_task(task: Any, settings: PodSettings) -> None:
    """Gives a task of Kubeflow Pipelines its pod settings."""
    from kfp import kubernetes

    task.set_container_image(settings.image)
    place = settings.placement
    if place.cpu is not None:
        task.set_cpu_request(place.cpu)
    if place.memory is not None:
        task.set_memory_request(place.memory)
        task.set_memory_limit(place.memory)
    if place.gpu is not None:
        task.set_accelerator_type(place.gpu.resource)
        task.set_accelerator_limit(place.gpu.count)
    for name, value in settings.environment.items():
        task.set_env_variable(name, value)
    for label, value in sorted(place.node_selector.items()):
        kubernetes.add_node_selector(task, label, value)
    for toleration in place.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value,
            effect=toleration.effect,
            toleration_seconds=toleration.seconds,
        )
    for secret in settings.secrets:
        # KFP takes {key: variable}, and one variable a key.
        for variable, key in sorted(secret.env.items()):
            kubernetes.use_secret_as_env(task, secret.secret, {key: variable})
    for number, volume in enumerate(settings.volumes):
        if volume.claim is not None:
            kubernetes.mount_pvc(task, volume.claim, volume.mount, sub_path=volume.sub_path)
        elif volume.secret is not None:
            kubernetes.use_secret_as_volume(task, volume.secret, volume.mount)
        elif volume.config_map is not None:
            kubernetes.use_config_map_as_volume(task, volume.config_map, volume.mount)
        else:
            kubernetes.empty_dir_mount(task, f"empty-{number}", volume.mount, size_limit=volume.size)
    if settings.pull_policy is not None:
        kubernetes.set_image_pull_policy(task, settings.pull_policy)
    if settings.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(settings.pull_secrets))


def pod_template(
    settings: PodSettings,
    *,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns a pod template with one container: not root, no capabilities, a read-only file system but /tmp.

    Args:
        settings: From `pod_settings`.
        name: Of the container.
        command: What it runs.
        environment: Further variables.
        labels: Of the pod.
    """
    place = settings.placement
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the pod's own
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    for number, volume in enumerate(settings.volumes):
        mounts.append(
            {"name": f"volume-{number}", "mountPath": volume.mount}
            | ({"subPath": volume.sub_path} if volume.sub_path else {})
        )
        volumes.append({"name": f"volume-{number}", **_volume_source(volume)})
    variables: list[dict[str, Any]] = [
        {"name": key, "value": value} for key, value in (settings.environment | dict(environment or {})).items()
    ]
    variables += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.secret, "key": key}}}
        for secret in settings.secrets
        for variable, key in sorted(secret.env.items())
    ]
    container: dict[str, Any] = {
        "name": name,
        "image": settings.image,
        "command": list(command),
        "env": variables,
        "resources": _resources(place),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    if settings.pull_policy is not None:
        container["imagePullPolicy"] = settings.pull_policy
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if place.node_selector:
        spec["nodeSelector"] = dict(sorted(place.node_selector.items()))
    if place.tolerations:
        spec["tolerations"] = [
            {
                field: value
                for field, value in (
                    ("key", toleration.key),
                    ("operator", toleration.operator),
                    ("value", toleration.value),
                    ("effect", toleration.effect),
                    ("tolerationSeconds", toleration.seconds),
                )
                if value is not None
            }
            for toleration in place.tolerations
        ]
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in settings.pull_secrets]
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    return {"metadata": {"labels": dict(labels or {})}, "spec": spec}


def _resources(place: PlacementSpec) -> dict[str, Any]:
    requests: dict[str, str | int] = {}
    limits: dict[str, str | int] = {}
    if place.cpu is not None:
        requests["cpu"] = place.cpu
    if place.memory is not None:
        requests["memory"] = limits["memory"] = place.memory
    if place.gpu is not None:
        limits[place.gpu.resource] = place.gpu.count
    return {name: content for name, content in (("requests", requests), ("limits", limits)) if content}


def _volume_source(volume: VolumeSpec) -> dict[str, Any]:
    if volume.claim is not None:
        return {"persistentVolumeClaim": {"claimName": volume.claim}}
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret}}
    if volume.config_map is not None:
        return {"configMap": {"name": volume.config_map}}
    return {"emptyDir": {"sizeLimit": volume.size} if volume.size is not None else {}}


def _store_environment(s3: S3Spec) -> dict[str, str]:
    return {"AWS_REGION": s3.region} | ({"AWS_ENDPOINT_URL": s3.endpoint} if s3.endpoint is not None else {})


def _store_secrets(s3: S3Spec) -> list[SecretSpec]:
    if s3.secret is None:
        return []
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    return [SecretSpec(secret=s3.secret, env=keys)]
