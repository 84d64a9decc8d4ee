"""What the cluster shows of a Rollout, read from the objects themselves and never from what was written last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.serving.rollout.core.observations import ArmObservation
from slipway.serving.rollout.operator.kube import Document
from slipway.serving.rollout.operator.rendering import SERVICE_SUFFIX

_CANNOT_START = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"})

PROGRAMMED, ROUTE_ABSENT, NOT_OBSERVED = "Programmed", "RouteAbsent", "GenerationNotObserved"
NOT_ACCEPTED, BACKENDS_NOT_RESOLVED = "RouteNotAccepted", "BackendsNotResolved"


@dataclass(frozen=True)
class Pod:
    """A pod that answers."""

    name: str
    address: str


@dataclass(frozen=True)
class ArmSight:
    """One version as its InferenceService, Deployment and pods show it.

    Args:
        present: Whether the InferenceService is there and stays.
        ready: Pods that are ready, of the newest template.
        total: Pods that should be.
        problem: What keeps it from being ready, in words.
        uri: The bundle that its InferenceService names.
        document: The InferenceService.
    """

    present: bool
    ready: int = 0
    total: int = 0
    restarts: int = 0
    crash_looping: bool = False
    problem: str = ""
    uri: str | None = None
    pods: tuple[Pod, ...] = ()
    document: Document | None = None


@dataclass(frozen=True)
class RouteSight:
    """The HTTPRoute as it is, and whether the gateway has it in force.

    Args:
        reason: One of the constants of this module.
        message: The same in words.
        weights: Percent by arm in force; None where that is not known.
        document: The HTTPRoute.
    """

    reason: str
    message: str
    weights: Mapping[str, int] | None = None
    mirrors: Mapping[str, int] = field(default_factory=dict)
    document: Document | None = None

    @property
    def in_force(self) -> bool:
        """Whether the gateway is known to do what the route says."""
        return self.weights is not None


@dataclass(frozen=True)
class ClusterSight:
    """Everything seen of one Rollout at one look."""

    arms: Mapping[str, ArmSight]
    route: RouteSight
    endpoints: Mapping[str, str] = field(default_factory=dict)

    def observations(self, digests: Mapping[str, str], uris: Mapping[str, str]) -> dict[str, ArmObservation]:
        """Returns every arm as the core wants it.

        Args:
            digests: sha256 of the bundle by arm, as far as known.
            uris: Bundle that each arm should serve.
        """
        named = set(self.route.weights or {}) | set(self.route.mirrors)
        return {
            name: self._observation(name, self.arms.get(name, ArmSight(present=False)), digests, uris)
            for name in {*self.arms, *named}
        }

    def _observation(
        self, name: str, arm: ArmSight, digests: Mapping[str, str], uris: Mapping[str, str]
    ) -> ArmObservation:
        other = arm.uri is not None and name in uris and arm.uri != uris[name]
        return ArmObservation(
            ready=arm.ready,
            total=arm.total,
            crash_looping=arm.crash_looping,
            restarts=arm.restarts,
            weight_applied=None if self.route.weights is None else self.route.weights.get(name, 0),
            mirror_applied=self.route.mirrors.get(name, 0),
            digest=f"another bundle: {arm.uri}" if other else digests.get(name),
        )


def arms_of(
    services: Iterable[Document], deployments: Iterable[Document], pods: Iterable[Document]
) -> dict[str, ArmSight]:
    """Returns the versions by name, those too of which only pods are left."""
    by_service = {service["metadata"]["name"]: service for service in services}
    by_deployment = {_inference_service(one): one for one in deployments}
    by_pod: dict[str, list[Document]] = {}
    for pod in pods:
        if pod["status"].get("phase") not in ("Succeeded", "Failed"):
            by_pod.setdefault(_inference_service(pod), []).append(pod)
    names = {*by_service, *by_deployment, *by_pod} - {""}
    return {name: _arm(by_service.get(name), by_deployment.get(name), by_pod.get(name, [])) for name in names}


def _arm(service: Document | None, deployment: Document | None, pods: list[Document]) -> ArmSight:
    leaving = service is None or "deletionTimestamp" in service["metadata"]
    ready_pods = [pod for pod in pods if _is_ready(pod)]
    wanted = len(pods)
    if service is not None and not leaving:
        wanted = int(service["spec"]["predictor"].get("minReplicas", 1))
    if deployment is not None and not leaving:
        wanted = max(wanted, int(deployment["spec"].get("replicas", 1)))
    crashing = [problem for pod in pods if (problem := _crash_loop(pod)) is not None]
    waiting = [problem for pod in pods if (problem := _waits(pod)) is not None]
    return ArmSight(
        present=not leaving,
        ready=min(len(ready_pods), _current(deployment)),
        total=wanted,
        restarts=sum(_restarts(pod) for pod in pods),
        crash_looping=bool(crashing),
        problem=next(iter((*crashing, *waiting)), ""),
        uri=None if service is None else service["spec"]["predictor"].get("model", {}).get("storageUri"),
        pods=tuple(Pod(pod["metadata"]["name"], pod["status"]["podIP"]) for pod in ready_pods),
        document=service,
    )


def _current(deployment: Document | None) -> int:
    """Returns how many pods may count: while a new template is on its way, those of it."""
    if deployment is None:
        return 0
    status = deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return 0
    return int(status.get("updatedReplicas", 0))


def _inference_service(document: Document) -> str:
    labels = document["metadata"].get("labels", {})
    return str(labels.get("serving.kserve.io/inferenceservice", ""))


def _is_ready(pod: Document) -> bool:
    if "deletionTimestamp" in pod["metadata"] or not pod["status"].get("podIP"):
        return False
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _containers(pod: Document) -> list[Document]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _restarts(pod: Document) -> int:
    return sum(int(container.get("restartCount", 0)) for container in _containers(pod))


def _crash_loop(pod: Document) -> str | None:
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") == "CrashLoopBackOff":
            last = container.get("lastState", {}).get("terminated") or {}
            code = f", last exit {last['exitCode']}" if "exitCode" in last else ""
            return f"{container['name']} of {pod['metadata']['name']} crash-loops{code}"
    return None


def _waits(pod: Document) -> str | None:
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _CANNOT_START:
            return f"{container['name']} of {pod['metadata']['name']}: {waiting['reason']}"
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{pod['metadata']['name']} finds no node: {condition.get('message', '')}"[:300]
    return None


def route_of(document: Document | None, gateway: tuple[str, str]) -> RouteSight:
    """Returns what a route does.

    Args:
        document: The HTTPRoute, or None where there is none.
        gateway: Namespace and name of the Gateway that has to accept it.
    """
    if document is None:
        return RouteSight(ROUTE_ABSENT, "There is no HTTPRoute yet.", weights={})
    generation = document["metadata"]["generation"]
    parents = [parent for parent in document.get("status", {}).get("parents", ()) if _is(parent, gateway, document)]
    conditions = [one for parent in parents for one in parent.get("conditions", ())]
    for kind, reason in (("Accepted", NOT_ACCEPTED), ("ResolvedRefs", BACKENDS_NOT_RESOLVED)):
        own = [one for one in conditions if one["type"] == kind]
        if not own or any(one.get("observedGeneration", 0) < generation for one in own):
            message = f"The gateway has not said {kind} of the route's generation {generation} yet."
            return RouteSight(NOT_OBSERVED, message, document=document)
        wrong = next((one for one in own if one["status"] != "True"), None)
        if wrong is not None:
            message = f"{kind} is {wrong['status']}: {wrong.get('message', '')} ({wrong.get('reason', '')})"
            return RouteSight(reason, message, document=document)
    weights, mirrors = _split(document)
    return RouteSight(PROGRAMMED, "The gateway has the route in force.", weights, mirrors, document)


def _is(parent: Mapping[str, Any], gateway: tuple[str, str], document: Document) -> bool:
    reference = parent.get("parentRef", {})
    namespace = reference.get("namespace", document["metadata"]["namespace"])
    return (namespace, reference.get("name")) == gateway


def _split(document: Document) -> tuple[dict[str, int], dict[str, int]]:
    """Returns percent and copies by arm of the rule that every caller falls under.

    A rule that should not be there takes callers away: what it names counts as if it had everything it can get.
    """
    weights: dict[str, int] = {}
    mirrors: dict[str, int] = {}
    for rule in document["spec"].get("rules", ()):
        if any("headers" in match for match in rule.get("matches", ())):
            continue
        raw = {_arm_name(ref): int(ref.get("weight", 1)) for ref in rule.get("backendRefs", ())}
        total = sum(raw.values())
        for arm, weight in raw.items():
            weights[arm] = max(weights.get(arm, 0), round(100 * weight / total) if total else 0)
        for part in rule.get("filters", ()):
            if part.get("type") == "RequestMirror":
                mirror = part["requestMirror"]
                mirrors[_arm_name(mirror["backendRef"])] = _percent(mirror)
    return weights, mirrors


def _percent(mirror: Mapping[str, Any]) -> int:
    fraction = mirror.get("fraction")
    if fraction is not None:
        return round(100 * int(fraction["numerator"]) / int(fraction.get("denominator", 100)))
    return int(mirror.get("percent", 100))


def _arm_name(reference: Mapping[str, Any]) -> str:
    return str(reference["name"]).removesuffix(SERVICE_SUFFIX)
