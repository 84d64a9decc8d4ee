"""The `kubernetes:` part of a project file: images, nodes, volumes, secrets and storage, declared once for every step.

Nothing here holds a credential: a secret is named, and Kubernetes gives its value to the pod.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from slipway.contracts.durations import Duration

ClusterStep = Literal[
    "observe", "extract", "validate", "featurize", "train", "tune", "evaluate", "register", "batch_predict",
    "release", "notify", "submit",
]  # fmt: skip
"""The kinds of step that run as pods."""

CLUSTER_STEPS: tuple[ClusterStep, ...] = get_args(ClusterStep)

_QUANTITY = r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_DIGEST = r"^sha256:[0-9a-f]{64}$"


def _as_text(value: Any) -> Any:
    # Quantities are often written as bare numbers: cpu: 2.
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_as_text), Field(pattern=_QUANTITY, examples=["500m", "2", "8Gi"])]
ObjectName = Annotated[str, Field(pattern=_NAME, min_length=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Spec):
    """Lets a pod run on nodes that are kept free from others. Without a key it tolerates every taint."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _value_fits(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("operator Equal needs a value, and operator Exists takes none")
        return self


class GpuSpec(_Spec):
    """Accelerators of a step, and the name under which the nodes offer them."""

    count: int = Field(default=1, ge=1, le=64)
    resource: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")


class PlacementSpec(_Spec):
    """What a pod asks for and where it may run.

    `cpu` and `memory` are requests; `memory` is the limit too, as a pod that takes more than it asked for is killed at
    the worst moment. `spot` puts the step on the nodes that the part `spot` describes.
    """

    cpu: Quantity | None = None
    memory: Quantity | None = None
    gpu: GpuSpec | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    spot: bool | None = None


class SpotSpec(_Spec):
    """How spot nodes are told from others; the defaults are GKE's. AKS and EKS have labels of their own."""

    node_selector: dict[str, str] = Field(default_factory=lambda: {"cloud.google.com/gke-spot": "true"})
    tolerations: tuple[Toleration, ...] = (
        Toleration(key="cloud.google.com/gke-spot", operator="Equal", value="true", effect="NoSchedule"),
    )


class ImageSpec(_Spec):
    """One image: `repository` without tag, and the digest that pins it; a tag alone is for test clusters."""

    repository: str | None = Field(default=None, min_length=1, pattern=r"^[^\s@]+$")
    digest: str | None = Field(default=None, pattern=_DIGEST)
    tag: str | None = Field(default=None, pattern=r"^[\w][\w.-]{0,127}$")


class ImagesSpec(_Spec):
    """Where the images of the steps are.

    `file` is the list that `make images` writes (name -> repository, tag, digest), relative to the project file.
    `registry` stands before the names of that list, or before the default names; `steps` overrides single steps.
    """

    file: str | None = None
    registry: str | None = Field(default=None, pattern=r"^[^\s@]+$")
    steps: dict[ClusterStep, ImageSpec] = Field(default_factory=dict)
    pull_policy: Literal["IfNotPresent", "Always", "Never"] | None = None
    pull_secrets: tuple[ObjectName, ...] = ()


class VolumeSpec(_Spec):
    """A volume of the pods: a claim, a secret, a config map, or an empty folder that goes with the pod.

    `steps` are those that get it; by default all.
    """

    claim: ObjectName | None = None
    secret: ObjectName | None = None
    config_map: ObjectName | None = None
    empty: bool = False
    size: Quantity | None = None
    mount: str
    sub_path: str = ""
    steps: tuple[ClusterStep, ...] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> VolumeSpec:
        given = [self.claim is not None, self.secret is not None, self.config_map is not None, self.empty]
        if sum(given) != 1:
            raise ValueError("name exactly one of claim, secret, config_map, and empty: true")
        if self.size is not None and not self.empty:
            raise ValueError("size is for an empty folder; a claim has its own")
        return self

    @field_validator("mount")
    @classmethod
    def _absolute(cls, mount: str) -> str:
        return absolute_folder(mount)


class SecretSpec(_Spec):
    """A secret whose keys become environment variables: {variable: key}. `steps` are those that get it, default all."""

    secret: ObjectName
    env: dict[str, str] = Field(min_length=1)
    steps: tuple[ClusterStep, ...] | None = None

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        for variable in env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
                raise ValueError(f"{variable!r} is not a name of an environment variable")
        return env


class SecretKey(_Spec):
    """One key of a secret."""

    secret: ObjectName
    key: str = Field(min_length=1)


class S3Spec(_Spec):
    """The object store with sources and artifacts; without `secret` the pod's own identity is used."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+$", examples=["http://s3.kubeflow:9000"])
    region: str = "us-east-1"
    secret: ObjectName | None = None
    access_key: str = "AWS_ACCESS_KEY_ID"
    secret_key: str = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a key's name


class ProjectVolumeSpec(_Spec):
    """The folder that steps share: registered bundles, own modules, relative sources. A claim, mounted at `mount`."""

    claim: ObjectName | None = None
    mount: str = "/project"
    sub_path: str = ""

    @field_validator("mount")
    @classmethod
    def _absolute(cls, mount: str) -> str:
        return absolute_folder(mount)


class MailSpec(_Spec):
    """Mail through an SMTP server; `server` is a secret's key that holds smtp[s]://user:password@host:port."""

    server: SecretKey
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    to: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...] = Field(min_length=1)


class NotificationSpec(_Spec):
    """Who is told how a run ended. `webhook` takes Slack's messages ({"text": ...}), as Mattermost and others do."""

    webhook: SecretKey | None = None
    mail: MailSpec | None = None
    when: tuple[Literal["failed", "succeeded"], ...] = ("failed", "succeeded")

    @model_validator(mode="after")
    def _somebody(self) -> NotificationSpec:
        if self.webhook is None and self.mail is None:
            raise ValueError("name a webhook or mail, or leave notification out")
        return self


class RetrySpec(_Spec):
    """How often a failed pod is tried again and after which pause, which doubles up to `maximum_backoff`."""

    retries: int = Field(default=3, ge=0, le=10)
    backoff: Duration = timedelta(minutes=2)
    maximum_backoff: Duration = timedelta(minutes=30)


class KubernetesSpec(_Spec):
    """How the pipeline runs on a cluster.

    `api` is the address of Kubeflow Pipelines' API in the cluster, `pipeline_root` the place of the artifacts.
    `bundles` is where registered bundles go; by default under an S3 `pipeline_root` where `s3` says how to reach it,
    else on the project's volume.
    `scheduler_time_zone` is the zone in which the recurring runs of Kubeflow Pipelines count.
    """

    namespace: ObjectName = "kubeflow"
    api: str = Field(default="http://ml-pipeline.kubeflow:8888", pattern=r"^https?://\S+$")
    pipeline_root: str | None = Field(default=None, pattern=r"^(s3|minio|gs)://\S+$")
    bundles: str | None = Field(default=None, pattern=r"^s3://[^\s/]+/\S+$", examples=["s3://models/slipway"])
    service_account: ObjectName | None = None
    scheduler_time_zone: str = "UTC"
    images: ImagesSpec = ImagesSpec()
    project: ProjectVolumeSpec = ProjectVolumeSpec()
    s3: S3Spec | None = None
    secrets: tuple[SecretSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    default: PlacementSpec = PlacementSpec()
    steps: dict[ClusterStep, PlacementSpec] = Field(default_factory=dict)
    spot: SpotSpec = SpotSpec()
    retry: RetrySpec = RetrySpec()
    notification: NotificationSpec | None = None

    @model_validator(mode="after")
    def _mounts_differ(self) -> KubernetesSpec:
        seen: dict[str, int] = {self.project.mount: -1}
        for index, volume in enumerate(self.volumes):
            if volume.mount in seen and _share_a_step(volume, self.volumes, seen[volume.mount]):
                raise ValueError(f"volumes[{index}]: {volume.mount} is mounted already")
            seen[volume.mount] = index
        return self

    @property
    def bundle_root(self) -> str | None:
        """Where registered bundles go in the object store; None if they go to the project's volume."""
        if self.bundles is not None:
            return self.bundles.rstrip("/")
        root = self.pipeline_root
        return f"{root.rstrip('/')}/bundles" if root is not None and root.startswith("s3://") and self.s3 else None

    def placement(self, step: ClusterStep) -> PlacementSpec:
        """Returns what a step asks for: its own fields over the default's; selectors and tolerations are added up."""
        own = self.steps.get(step, PlacementSpec())
        spot = self.default.spot if own.spot is None else own.spot
        selector = {**self.default.node_selector, **(self.spot.node_selector if spot else {}), **own.node_selector}
        tolerations = (*self.default.tolerations, *(self.spot.tolerations if spot else ()), *own.tolerations)
        return PlacementSpec(
            cpu=own.cpu or self.default.cpu,
            memory=own.memory or self.default.memory,
            gpu=own.gpu or self.default.gpu,
            node_selector=selector,
            tolerations=tuple(dict.fromkeys(tolerations)),
            spot=bool(spot),
        )


def _share_a_step(volume: VolumeSpec, volumes: tuple[VolumeSpec, ...], other: int) -> bool:
    if other < 0 or volume.steps is None or volumes[other].steps is None:
        return True
    return bool(set(volume.steps) & set(volumes[other].steps or ()))


def absolute_folder(path: str) -> str:
    """Returns an absolute folder of a pod without a slash at its end.

    Raises:
        ValueError: The path is relative, or leaves its folder.
    """
    folder = PurePosixPath(path)
    if not folder.is_absolute() or ".." in folder.parts or str(folder) == "/":
        raise ValueError(f"{path!r} is not an absolute folder such as /data")
    return str(folder)
