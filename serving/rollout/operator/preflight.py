"""Whether this cluster can split traffic for a Rollout, and if not, why: asked before a version is started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slipway.contracts.rollout.resource import RolloutResource
from slipway.serving.rollout.operator.kube import (
    CLUSTER_SERVING_RUNTIMES,
    GATEWAY_CLASSES,
    GATEWAYS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    NAMESPACES,
    ROLLOUTS,
    SERVING_RUNTIMES,
    Document,
    Kube,
    RefusedByClusterError,
)
from slipway.serving.rollout.operator.rendering import Owner

PASSED = "Passed"
KSERVE_MISSING, GATEWAY_API_MISSING = "KServeMissing", "GatewayApiMissing"
GATEWAY_MISSING, GATEWAY_NOT_PROGRAMMED = "GatewayMissing", "GatewayNotProgrammed"
NAMESPACE_NOT_ADMITTED, HOSTNAME_NOT_ADMITTED = "NamespaceNotAdmitted", "HostnameNotAdmitted"
RUNTIME_MISSING, CLAIMED_BY_ANOTHER = "RuntimeMissing", "ClaimedByAnother"
USERS_NOT_KEPT, COPIES_NOT_SUPPORTED = "UsersNotKept", "CopiesNotSupported"

_MIRROR, _PERCENTAGE = "HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"


@dataclass(frozen=True)
class Finding:
    """A named reason and what to do about it; PASSED is a finding too."""

    reason: str
    message: str

    @property
    def passed(self) -> bool:
        """Whether a rollout may begin."""
        return self.reason == PASSED


def preflight(kube: Kube, owner: Owner, spec: RolloutResource) -> Finding:
    """Returns the first thing that is wrong, or PASSED.

    Raises:
        SlipwayError: The cluster does not answer, or does not let the operator look.
    """
    if not kube.knows(INFERENCE_SERVICES):
        return Finding(KSERVE_MISSING, "The cluster serves no InferenceService: install KServe 0.15 or newer.")
    if not kube.knows(HTTP_ROUTES):
        return Finding(
            GATEWAY_API_MISSING,
            "The cluster serves no HTTPRoute: install the Gateway API and a gateway that implements it.",
        )
    if spec.policy.assignment == "user":
        return Finding(
            USERS_NOT_KEPT,
            "spec.policy.assignment is user: an HTTPRoute draws each request anew and keeps no user with a version. "
            "Set assignment: request, or let callers ask for the candidate by spec.traffic.header.",
        )
    problem = _gateway(kube, owner, spec) or _runtime(kube, owner, spec) or _claim(kube, owner, spec)
    return problem or Finding(PASSED, "The gateway can split traffic between versions.")


def _gateway(kube: Kube, owner: Owner, spec: RolloutResource) -> Finding | None:
    reference = spec.traffic.gateway
    namespace = reference.namespace or owner.namespace
    name = f"{namespace}/{reference.name}"
    gateway = kube.get(GATEWAYS, namespace, reference.name)
    if gateway is None:
        return Finding(GATEWAY_MISSING, f"There is no Gateway {name}: name one that exists in spec.traffic.gateway.")
    if not _is_true(gateway.get("status", {}).get("conditions", ()), "Programmed"):
        return Finding(
            GATEWAY_NOT_PROGRAMMED,
            f"Gateway {name} is not programmed: no controller of a Gateway API implementation has taken it up.",
        )
    listeners = [one for one in gateway["spec"]["listeners"] if reference.section_name in (None, one["name"])]
    if not listeners:
        return Finding(GATEWAY_MISSING, f"Gateway {name} has no listener {reference.section_name!r}.")
    admitting = [one for one in listeners if _admits(kube, one, owner.namespace, namespace)]
    if not admitting:
        return Finding(
            NAMESPACE_NOT_ADMITTED,
            f"No listener of Gateway {name} admits routes of namespace {owner.namespace}: set allowedRoutes.",
        )
    problem = _copies(kube, gateway, spec)
    if problem is not None:
        return problem
    for hostname in spec.traffic.hostnames:
        if not any(_matches(hostname, one.get("hostname")) for one in admitting):
            return Finding(HOSTNAME_NOT_ADMITTED, f"No listener of Gateway {name} takes requests for {hostname}.")
    return None


def _copies(kube: Kube, gateway: Document, spec: RolloutResource) -> Finding | None:
    """Refuses copies where the gateway does not say that it makes them: some then fail every request of the route."""
    shares = [step.mirror for step in spec.policy.steps if step.mirror]
    if not shares:
        return None
    name = gateway["spec"]["gatewayClassName"]
    try:
        found = kube.get(GATEWAY_CLASSES, None, name)
    except RefusedByClusterError:
        found = None
    features = () if found is None else found.get("status", {}).get("supportedFeatures", ())
    supported = {one["name"] if isinstance(one, Mapping) else one for one in features}
    needed = {_MIRROR} if all(share == 100 for share in shares) else {_MIRROR, _PERCENTAGE}
    missing = ", ".join(sorted(needed - supported))
    if not missing:
        return None
    return Finding(
        COPIES_NOT_SUPPORTED,
        f"The policy copies requests, and GatewayClass {name} does not list {missing} among its supported features.",
    )


def _admits(kube: Kube, listener: Mapping[str, Any], namespace: str, gateway_namespace: str) -> bool:
    allowed = listener.get("allowedRoutes", {})
    kinds = allowed.get("kinds")
    if kinds and all(kind["kind"] != HTTP_ROUTES.kind for kind in kinds):
        return False
    if listener.get("protocol") not in ("HTTP", "HTTPS"):
        return False
    rule = allowed.get("namespaces", {})
    match rule.get("from", "Same"):
        case "All":
            return True
        case "Selector":
            found = kube.get(NAMESPACES, None, namespace)
            labels = {} if found is None else found["metadata"].get("labels", {})
            return _selects(rule.get("selector", {}), labels)
        case _:
            return namespace == gateway_namespace


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", ()):
        value, values = labels.get(rule["key"]), rule.get("values", ())
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not fits.get(rule["operator"], False):
            return False
    return True


def _matches(hostname: str, pattern: str | None) -> bool:
    if not pattern or pattern == hostname:
        return True
    for wide, narrow in ((pattern, hostname), (hostname, pattern)):
        if wide.startswith("*.") and narrow.endswith(wide[1:]):
            return True
    return False


def _runtime(kube: Kube, owner: Owner, spec: RolloutResource) -> Finding | None:
    predictor = spec.predictor
    try:
        runtimes = [
            *kube.list(SERVING_RUNTIMES, owner.namespace),
            *kube.list(CLUSTER_SERVING_RUNTIMES, None),
        ]
    except RefusedByClusterError:
        return None  # it may not look; KServe will say
    usable = [one for one in runtimes if not one["spec"].get("disabled")]
    if predictor.runtime is not None:
        if any(one["metadata"]["name"] == predictor.runtime for one in usable):
            return None
        return Finding(RUNTIME_MISSING, f"There is no serving runtime {predictor.runtime!r}.")
    if any(_serves(one, predictor.model_format) for one in usable):
        return None
    return Finding(
        RUNTIME_MISSING,
        f"No serving runtime is chosen for model format {predictor.model_format!r}: install one with autoSelect, or "
        "name one in spec.predictor.runtime.",
    )


def _serves(runtime: Document, model_format: str) -> bool:
    formats = runtime["spec"].get("supportedModelFormats", ())
    return any(one["name"] == model_format and one.get("autoSelect") for one in formats)


def _claim(kube: Kube, owner: Owner, spec: RolloutResource) -> Finding | None:
    """Refuses the younger of two Rollouts for one model, or for one hostname of one gateway."""
    rollouts = {one["metadata"]["name"]: one for one in kube.list(ROLLOUTS, owner.namespace)}
    own = rollouts.get(owner.name)
    if own is None:
        return None
    for name, other in sorted(rollouts.items()):
        if name == owner.name or "deletionTimestamp" in other["metadata"] or _age(own) < _age(other):
            continue
        theirs = other["spec"]
        if theirs["model"]["name"] == spec.model.name:
            what = f"model {spec.model.name}"
        elif shared := set(theirs["traffic"]["hostnames"]) & set(spec.traffic.hostnames):
            what = f"host {min(shared)}"
        else:
            continue
        return Finding(CLAIMED_BY_ANOTHER, f"Rollout {name}, which is older, has {what}: one service has one Rollout.")
    return None


def _age(document: Document) -> tuple[str, str]:
    return document["metadata"]["creationTimestamp"], document["metadata"]["name"]


def _is_true(conditions: Iterable[Mapping[str, Any]], kind: str) -> bool:
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)
