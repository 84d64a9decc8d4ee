"""The objects that a Rollout owns, as documents: an InferenceService a version, and one HTTPRoute over them.

Pure: the same input gives the same document, so that what is there can be compared with what should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway.contracts.rollout.resource import HeaderMatch, PredictorTemplate, RolloutResource
from slipway.serving.rollout.operator.kube import INFERENCE_SERVICES, ROLLOUTS, Document

ROLLOUT_LABEL = "slipway.dev/rollout"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "slipway-operator"
VISIBILITY_LABEL = "networking.kserve.io/visibility"
SERVICE_SUFFIX = "-predictor"
SERVICE_PORT = 80
SLIPWAY_FORMAT = "slipway"


@dataclass(frozen=True)
class Owner:
    """The Rollout that owns an object."""

    namespace: str
    name: str
    uid: str

    @property
    def reference(self) -> Document:
        """As `metadata.ownerReferences` wants it."""
        return {
            "apiVersion": ROLLOUTS.api_version,
            "kind": ROLLOUTS.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    @property
    def selector(self) -> str:
        """Label selector of what it owns."""
        return f"{ROLLOUT_LABEL}={self.name}"


@dataclass(frozen=True)
class VersionTemplate:
    """How one version is served. Taken when the version came, so that a later edit does not roll its pods.

    Args:
        model: Name under which it answers, the same for all versions.
        version: Label of its metrics.
        uri: Where its bundle is.
        predictor: The template.
    """

    model: str
    version: str
    uri: str
    predictor: PredictorTemplate

    def to_plain(self) -> Document:
        """Returns it as JSON-ready data."""
        predictor = self.predictor.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {"model": self.model, "version": self.version, "uri": self.uri, "predictor": predictor}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> VersionTemplate:
        """Reads what `to_plain` gave."""
        predictor = PredictorTemplate.model_validate(content["predictor"])
        return cls(str(content["model"]), str(content["version"]), str(content["uri"]), predictor)

    @classmethod
    def of(cls, spec: RolloutResource) -> VersionTemplate:
        """Returns the template of the version that a Rollout wants."""
        return cls(spec.model.name, spec.model.version, spec.model.uri, spec.predictor)


def inference_service(owner: Owner, arm: str, template: VersionTemplate) -> Document:
    """Returns the InferenceService of a version.

    It is never annotated or labelled again: KServe copies both to the pods, and would roll every one of them.
    """
    predictor = template.predictor
    scales = predictor.max_replicas is not None and predictor.max_replicas > predictor.min_replicas
    model: Document = {
        "modelFormat": {"name": predictor.model_format},
        "storageUri": template.uri,
        "args": _arguments(template),
    }
    if predictor.runtime is not None:
        model["runtime"] = predictor.runtime
    if predictor.env:
        model["env"] = [dict(variable) for variable in predictor.env]
    if predictor.resources is not None:
        model["resources"] = predictor.resources
    body: Document = {"minReplicas": predictor.min_replicas, "model": model}
    if predictor.max_replicas is not None:
        body["maxReplicas"] = predictor.max_replicas
    if predictor.service_account_name is not None:
        body["serviceAccountName"] = predictor.service_account_name
    if predictor.node_selector:
        body["nodeSelector"] = dict(predictor.node_selector)
    if predictor.tolerations:
        body["tolerations"] = [dict(toleration) for toleration in predictor.tolerations]
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": INFERENCE_SERVICES.kind,
        "metadata": {
            "name": arm,
            "namespace": owner.namespace,
            "labels": {
                **predictor.labels,
                # Keeps KServe from writing routes of its own for each version.
                VISIBILITY_LABEL: "cluster-local",
                MANAGED_LABEL: MANAGER,
                ROLLOUT_LABEL: owner.name,
            },
            "annotations": {
                **predictor.annotations,
                "serving.kserve.io/deploymentMode": "Standard",
                "serving.kserve.io/autoscalerClass": "hpa" if scales else "none",
            },
            "ownerReferences": [owner.reference],
        },
        "spec": {"predictor": body},
    }


def _arguments(template: VersionTemplate) -> list[str]:
    """Returns arguments that follow the runtime's own; the last one of a name wins."""
    own = list(template.predictor.args)
    if template.predictor.model_format == SLIPWAY_FORMAT:
        return [*own, f"--model={template.model}", f"--version={template.version}"]
    return [*own, f"--model_name={template.model}"]


def service_of(arm: str) -> str:
    """Returns the name of the Service that KServe makes for an InferenceService."""
    return arm + SERVICE_SUFFIX


def http_route(
    owner: Owner,
    spec: RolloutResource,
    weights: Mapping[str, int],
    mirrors: Mapping[str, int],
    candidates: tuple[str, ...],
) -> Document | None:
    """Returns the HTTPRoute that splits traffic so, or None where no version has any.

    A version without weight is not named: its Service may go at any time, and a route that names a Service that is
    gone fails its share of requests.

    Args:
        owner: The Rollout.
        spec: Its spec.
        weights: Percent by arm.
        mirrors: Percent of requests by arm of which it gets a copy.
        candidates: Arms that callers may ask for by the header.
    """
    serving = {arm: weight for arm, weight in sorted(weights.items()) if weight > 0}
    if not serving:
        return None
    rule: Document = {"backendRefs": [_backend(arm) | {"weight": weight} for arm, weight in serving.items()]}
    # Said also where there are none: what is not mentioned is not compared, and copies would go on for ever.
    rule["filters"] = [
        {"type": "RequestMirror", "requestMirror": {"backendRef": _backend(arm), "percent": percent}}
        for arm, percent in sorted(mirrors.items())
        if percent > 0
    ]
    rule["matches"] = [{"path": {"type": "PathPrefix", "value": "/"}}]
    asked = next((arm for arm in candidates if arm in serving), None)
    header = spec.traffic.header
    rules = [rule] if header is None or asked is None else [_by_header(header, asked), rule]
    gateway = spec.traffic.gateway
    parent = {"name": gateway.name, "namespace": gateway.namespace or owner.namespace}
    if gateway.section_name is not None:
        parent["sectionName"] = gateway.section_name
    return {
        "metadata": {
            "name": owner.name,
            "namespace": owner.namespace,
            "labels": {MANAGED_LABEL: MANAGER, ROLLOUT_LABEL: owner.name},
            "ownerReferences": [owner.reference],
        },
        "spec": {"parentRefs": [parent], "hostnames": list(spec.traffic.hostnames), "rules": rules},
    }


def _by_header(header: HeaderMatch, arm: str) -> Document:
    match = {
        "path": {"type": "PathPrefix", "value": "/"},
        "headers": [{"type": "Exact", "name": header.name, "value": header.value}],
    }
    return {"matches": [match], "backendRefs": [_backend(arm) | {"weight": 100}], "filters": []}


def _backend(arm: str) -> Document:
    return {"name": service_of(arm), "port": SERVICE_PORT}


def covers(actual: Any, wanted: Any) -> bool:
    """Returns whether all that is wanted is there as it should be. Servers add defaults, so more may be there.

    Lists must agree in length: what somebody added to one is a change. An empty list is as good as none.
    """
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(
            covers(actual[name], part) if name in actual else part == [] for name, part in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(wanted)
            and all(covers(one, other) for one, other in zip(actual, wanted, strict=True))
        )
    return bool(actual == wanted)
