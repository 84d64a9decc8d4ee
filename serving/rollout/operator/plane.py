"""A rollout's hands and eyes on a cluster.

Everything is read from the real objects at each look, and every action may be repeated. Order keeps requests safe: a
version is at its full size before it has any weight, and it goes only when the gateway is seen not to name it any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from slipway.contracts.errors import LockHeldError, ServiceError
from slipway.contracts.metrics import SMOKE_TEST_HEADER
from slipway.serving.rollout.core.observations import ArmObservation, SmokeTestResult
from slipway.serving.rollout.core.types import Action, Alarm, MoveAlias, SetWeights, SmokeTest, StartArm, State, StopArm
from slipway.serving.rollout.operator.aliases import Aliases
from slipway.serving.rollout.operator.home import RolloutHome
from slipway.serving.rollout.operator.kube import DEPLOYMENTS, HTTP_ROUTES, INFERENCE_SERVICES, PODS, Document, Kube
from slipway.serving.rollout.operator.observing import ArmSight, ClusterSight, Pod, arms_of, route_of
from slipway.serving.rollout.operator.rendering import (
    SLIPWAY_FORMAT,
    VersionTemplate,
    covers,
    http_route,
    inference_service,
)
from slipway.serving.rollout.smoke_test import problem_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What all Rollouts share.

    Args:
        kube: The cluster.
        http: Client for smoke tests.
        prometheus: Base address, or None.
        aliases: The registry's aliases, or None where each Rollout keeps its own.
        tell: Receives (rollout, reason, message) of what was put right.
    """

    kube: Kube
    http: httpx.Client
    prometheus: str | None = None
    aliases: Aliases | None = None
    tell: Callable[[RolloutHome, str, str], None] = lambda *_: None


class ClusterPlane:
    """The plane of one Rollout for one look.

    Args:
        surroundings: What all Rollouts share.
        home: The Rollout.
    """

    def __init__(self, surroundings: Surroundings, home: RolloutHome) -> None:
        self._around = surroundings
        self._kube = surroundings.kube
        self._home = home
        self._owner = home.owner
        self._done: set[str] = set()

    def observed(self) -> ClusterSight:
        """Returns what the cluster shows now; four calls."""
        namespace, selector = self._owner.namespace, self._owner.selector
        services = self._kube.list(INFERENCE_SERVICES, namespace, selector)
        deployments = self._kube.list(DEPLOYMENTS, namespace, selector)
        pods = self._kube.list(PODS, namespace, selector)
        route = self._kube.get(HTTP_ROUTES, namespace, self._owner.name)
        gateway = self._home.resource.traffic.gateway
        endpoints = {} if self._around.prometheus is None else {"prometheus": self._around.prometheus}
        sight = ClusterSight(
            arms_of(services, deployments, pods),
            route_of(route, (gateway.namespace or namespace, gateway.name)),
            endpoints,
        )
        self._home.sight = sight
        return sight

    def arms(self, observed: ClusterSight, digests: Mapping[str, str]) -> dict[str, ArmObservation]:
        """Returns every arm as the core wants it."""
        return observed.observations(digests, {arm: one.uri for arm, one in self._home.arms.items()})

    def champion(self, model: str) -> str | None:
        """Returns the version that the alias `champion` names, or None."""
        if self._around.aliases is None:
            return self._home.champion
        try:
            return self._around.aliases.version(model, "champion")
        except ServiceError as error:
            log.warning("%s: %s", self._home.id, error)
            return None

    def carry_out(self, action: Action, arms: Mapping[str, VersionTemplate]) -> SmokeTestResult | None:
        """Brings one action on its way.

        Args:
            action: What the core asked for.
            arms: How each version is served.

        Returns:
            The result of a smoke test, else None.

        Raises:
            SlipwayError: The cluster or the registry refused; the action comes again with the next decision.
        """
        match action:
            case StartArm(arm=name):
                self._start(name, arms[name])
            case SetWeights(weights=weights, mirrors=mirrors):
                self._route(weights, mirrors)
            case StopArm(arm=name):
                self._stop(name)
            case MoveAlias(alias=alias, version=version):
                if self._around.aliases is None:
                    self._home.set_champion(version)
                else:
                    self._around.aliases.move(self._home.resource.model.name, alias, version)
            case SmokeTest(arm=name):
                return self._smoke_test(name, arms[name])
            case Alarm():
                pass  # in the status, and told to people as a line of history
        return None

    def keep(self, state: State) -> None:
        """Puts right what was changed or deleted beside the core's own actions.

        The route always says what was decided. At rest, a version with traffic is made anew where it is gone, and what
        is left of others goes. On the way, the core itself decides what becomes of a version that is gone.
        """
        sight, arms = self._home.sight, self._home.arms
        if sight is None:
            return
        self._keep_route(sight, state)
        own = {target.arm for target in (*state.candidates, state.stable) if target is not None}
        for name, arm in sight.arms.items():
            wanted = arms.get(name)
            if name in own and wanted is not None and arm.present and self._wanted(state, name):
                self._mend(name, arm, wanted)
            elif arm.present and (state.terminal or name not in own) and not state.weights.get(name):
                self._stop(name)
        if state.terminal:
            for name, weight in state.weights.items():
                if weight > 0 and name in arms and not sight.arms.get(name, ArmSight(False)).present:
                    self._start(name, arms[name])
                    self._around.tell(self._home, "InferenceServiceRestored", f"{name} was gone and is made anew.")

    def _wanted(self, state: State, arm: str) -> bool:
        return state.weights.get(arm, 0) > 0 or (not state.terminal and arm not in state.dropped)

    def _keep_route(self, sight: ClusterSight, state: State) -> None:
        if not state.weights or "route" in self._done:
            return
        wanted = self._rendered(state.weights, state.mirrors)
        actual = sight.route.document
        if wanted is None:
            if actual is not None and state.terminal:
                self._kube.delete(HTTP_ROUTES, self._owner.namespace, self._owner.name)
        elif actual is None or not (
            covers(actual["spec"], wanted["spec"])
            and covers(actual["metadata"].get("labels", {}), wanted["metadata"]["labels"])
        ):
            self._write_route(wanted, actual)
            what = "was gone" if actual is None else "was changed"
            self._around.tell(self._home, "RouteRestored", f"The HTTPRoute {what}; it is as decided again.")

    def _mend(self, name: str, arm: ArmSight, template: VersionTemplate) -> None:
        wanted = inference_service(self._owner, name, template)
        if name in self._done or arm.document is None or covers(arm.document["spec"], wanted["spec"]):
            return
        self._start(name, template)
        self._around.tell(self._home, "InferenceServiceRestored", f"{name} was changed; it is as wanted again.")

    def _start(self, name: str, template: VersionTemplate) -> None:
        wanted = inference_service(self._owner, name, template)
        sight = self._home.sight
        seen = None if sight is None else sight.arms.get(name)
        actual = None if seen is None or not seen.present else seen.document
        if actual is None:
            # Its label may have been taken off, or it may belong to someone else.
            actual = self._kube.get(INFERENCE_SERVICES, self._owner.namespace, name)
            self._refuse_foreign(actual)
            if actual is not None and "deletionTimestamp" in actual["metadata"]:
                return
        if actual is None or not _is_as(actual, wanted):
            self._kube.apply(INFERENCE_SERVICES, wanted)
        self._done.add(name)

    def _refuse_foreign(self, actual: Document | None) -> None:
        if actual is None:
            return
        owners = actual["metadata"].get("ownerReferences", ())
        if not any(one["uid"] == self._owner.uid for one in owners):
            holder = ", ".join(f"{one['kind']} {one['name']}" for one in owners) or "nobody that can be told"
            raise LockHeldError(
                f"InferenceService {actual['metadata']['name']} belongs to {holder}",
                where=self._home.id,
                remedy="Delete it, or give one of the two another name.",
            )

    def _route(self, weights: Mapping[str, int], mirrors: Mapping[str, int]) -> None:
        wanted = self._rendered(weights, mirrors)
        self._done.add("route")
        if wanted is None:
            self._kube.delete(HTTP_ROUTES, self._owner.namespace, self._owner.name)
            return
        sight = self._home.sight
        actual = None if sight is None else sight.route.document
        if actual is None:
            actual = self._kube.get(HTTP_ROUTES, self._owner.namespace, self._owner.name)
            self._refuse_foreign(actual)
        # Without a change there is nothing to write: the gateway has not said yet that it has it in force.
        if actual is None or not covers(actual["spec"], wanted["spec"]):
            self._write_route(wanted, actual)

    def _write_route(self, wanted: Document, actual: Document | None) -> None:
        """Writes the route onto the one that was seen: what another operator has decided since must stay."""
        if actual is not None:
            wanted = {**wanted, "metadata": wanted["metadata"] | _identity(actual)}
        self._kube.apply(HTTP_ROUTES, wanted)

    def _rendered(self, weights: Mapping[str, int], mirrors: Mapping[str, int]) -> Document | None:
        state = self._home.state
        candidates = () if state is None else tuple(target.arm for target in state.active)
        return http_route(self._owner, self._home.resource, weights, mirrors, candidates)

    def _stop(self, name: str) -> None:
        """Deletes a version that the route in force does not name."""
        sight = self._home.sight
        if sight is None or not sight.route.in_force:
            return
        if (sight.route.weights or {}).get(name) is not None or name in sight.route.mirrors:
            return
        arm = sight.arms.get(name)
        if arm is not None and arm.present and arm.document is not None:
            uid = arm.document["metadata"]["uid"]
            self._kube.delete(INFERENCE_SERVICES, self._owner.namespace, name, uid=uid)

    def _smoke_test(self, name: str, template: VersionTemplate) -> SmokeTestResult | None:
        sight = self._home.sight
        arm = None if sight is None else sight.arms.get(name)
        if self._home.resource.smoke_test.skip:
            return SmokeTestResult(name, passed=True, message="not asked, as the spec says")
        if arm is None or not arm.pods:
            return None
        for pod in arm.pods:
            problem = self._problem_of(pod, template)
            if problem is not None:
                return SmokeTestResult(name, passed=False, message=f"{pod.name}: {problem}")
        return SmokeTestResult(name, passed=True, message=f"{len(arm.pods)} pods answered well")

    def _problem_of(self, pod: Pod, template: VersionTemplate) -> str | None:
        test = self._home.resource.smoke_test
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"http://{host}:{test.port}"
        if test.instances is None and template.predictor.model_format == SLIPWAY_FORMAT:
            return problem_of(self._around.http, url, template.model, template.version)
        path = test.path or f"/v1/models/{template.model}:predict"
        try:
            body = {"instances": list(test.instances or ())}
            answer = self._around.http.post(f"{url}{path}", json=body, headers={SMOKE_TEST_HEADER: "1"})
        except httpx.HTTPError as error:
            return f"no usable answer ({type(error).__name__})"
        return None if answer.status_code == 200 else f"answered {answer.status_code}"


def _identity(document: Document) -> Document:
    return {name: document["metadata"][name] for name in ("resourceVersion", "uid")}


def _is_as(actual: Document, wanted: Document) -> bool:
    meta = wanted["metadata"]
    return covers(actual["spec"], wanted["spec"]) and covers(actual["metadata"].get("labels", {}), meta["labels"])
