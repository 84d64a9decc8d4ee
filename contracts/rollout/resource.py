"""The spec of the custom resource `Rollout`: which version is wanted, how it is served, and by which policy.

Fields that KServe or the Gateway API know keep their spelling there; `policy` is the `rollout:` of a project file, word
for word, so that the same text serves both planes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from slipway.contracts.rollout.policy import RolloutPolicy
from slipway.contracts.rollout.spec import ArmTarget

GROUP = "slipway.dev"
API_VERSION = "v1alpha1"
KIND = "Rollout"
PLURAL = "rollouts"
COMMAND_PREFIX = "command.slipway.dev/"
"""Annotations that begin so are commands: `command.slipway.dev/<id>` = `abort` or {"kind": "abort", "by": "alice"}."""

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
LONGEST_NAME = 30
"""Characters of a Rollout's name: names of its InferenceServices and of what KServe derives from them still fit."""


class ResourcePart(BaseModel):
    """As `Part`, with names as Kubernetes writes them."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, alias_generator=to_camel, populate_by_name=True
    )


class WantedVersion(ResourcePart):
    """The version that is wanted. A version that went back is tried again when its digest changes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=63, description="Registered model.")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=40)
    uri: str = Field(
        pattern=r"^(s3|gs|oci|pvc|hf|https|abfs)://.+",
        max_length=2048,
        description="Where the bundle is: s3://, pvc://, gs://, oci://, as KServe's storage initializer reads it.",
    )
    digest: str = Field("", pattern=r"^([0-9a-f]{64})?$", max_length=64, description="sha256 of the bundle.")


class PredictorTemplate(ResourcePart):
    """How each version is served: what goes into its InferenceService. `minReplicas` is followed at once, the rest is
    taken over with the next version."""

    model_format: str = Field("slipway", max_length=63, description="Picks the serving runtime.")
    runtime: str | None = Field(None, max_length=253, description="Serving runtime by name, in place of the choice.")
    min_replicas: int = Field(1, ge=1, le=1000, description="Replicas of each version while it has or may get traffic.")
    max_replicas: int | None = Field(
        None, ge=1, le=1000, description="With it, a HorizontalPodAutoscaler may add some."
    )
    args: tuple[str, ...] = Field((), description="Further arguments of the server.")
    env: tuple[dict[str, Any], ...] = Field((), description="Variables, as in a container.")
    resources: dict[str, Any] | None = Field(None, description="Requests and limits, as in a container.")
    service_account_name: str | None = Field(None, max_length=253, description="Holds the credentials of the storage.")
    node_selector: dict[str, str] = Field({}, description="As in a pod.")
    tolerations: tuple[dict[str, Any], ...] = Field((), description="As in a pod.")
    annotations: dict[str, str] = Field({}, description="Of the InferenceService, and by it of the pods.")
    labels: dict[str, str] = Field({}, description="Of the InferenceService, and by it of the pods.")

    @model_validator(mode="after")
    def _replicas_fit(self) -> PredictorTemplate:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"maxReplicas ({self.max_replicas}) is below minReplicas ({self.min_replicas})")
        return self


class GatewayReference(ResourcePart):
    """The Gateway that the HTTPRoute is attached to."""

    name: str = Field(max_length=253)
    namespace: str | None = Field(None, max_length=63, description="The Rollout's own if not given.")
    section_name: str | None = Field(None, max_length=253, description="A listener of it.")


class HeaderMatch(ResourcePart):
    """Callers who ask for the candidate by a header get it, as long as it has traffic."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]+$", max_length=64)
    value: str = Field("candidate", max_length=256)


class Traffic(ResourcePart):
    """Where requests come in."""

    gateway: GatewayReference
    hostnames: tuple[str, ...] = Field(min_length=1, description="Of the route.")
    header: HeaderMatch | None = None


class SmokeTestTemplate(ResourcePart):
    """What a version is asked before it gets traffic: each pod, directly."""

    skip: bool = Field(False, description="Ask nothing: for pods that need not answer.")
    path: str | None = Field(None, pattern=r"^/", max_length=512, description="Default: /v1/models/<name>:predict.")
    instances: tuple[Any, ...] | None = Field(
        None, description="Request body's `instances`, for models that are no Slipway bundles; any 200 answer passes."
    )
    port: int = Field(8080, ge=1, le=65535)


class RolloutResource(ResourcePart):
    """Spec of a Rollout."""

    model: WantedVersion
    predictor: PredictorTemplate = Field(default_factory=lambda: PredictorTemplate.model_validate({}))
    traffic: Traffic
    policy: RolloutPolicy = Field(default_factory=lambda: RolloutPolicy.model_validate({}))
    smoke_test: SmokeTestTemplate = Field(default_factory=lambda: SmokeTestTemplate.model_validate({}))

    def target(self, rollout: str) -> ArmTarget:
        """Returns the version that is wanted as an arm of the Rollout of that name."""
        wanted = self.model
        return ArmTarget(
            arm=object_name(rollout, wanted.version), version=wanted.version, digest=wanted.digest, bundle=wanted.uri
        )


def object_name(rollout: str, version: str) -> str:
    """Returns the name of a version's InferenceService, and of its arm: `films`, `2` -> `films-v2`.

    A version that is no part of a DNS label is spelt as one, and told from others by four digits of its hash.
    """
    spelt = re.sub(r"[^a-z0-9]+", "-", version.lower()).strip("-")[:16].strip("-")
    if spelt != version:
        spelt = f"{spelt}-{hashlib.sha256(version.encode()).hexdigest()[:4]}"
    return f"{rollout}-v{spelt}"
