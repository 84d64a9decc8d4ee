"""What the operator writes, and what it sees of what is there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.contracts.rollout.resource import RolloutResource
from slipway.serving.rollout.operator.observing import (
    BACKENDS_NOT_RESOLVED,
    NOT_ACCEPTED,
    NOT_OBSERVED,
    PROGRAMMED,
    ROUTE_ABSENT,
    ClusterSight,
    arms_of,
    route_of,
)
from slipway.serving.rollout.operator.rendering import Owner, VersionTemplate, covers, http_route, inference_service

OWNER = Owner("prod", "films", "uid-1")
GATEWAY = ("kserve", "gateway")
SPEC: dict[str, Any] = {
    "model": {"name": "films", "version": "2", "uri": "s3://b/films/2"},
    "predictor": {"minReplicas": 2, "args": ["--k=5"], "serviceAccountName": "models"},
    "traffic": {"gateway": {"name": "gateway", "namespace": "kserve"}, "hostnames": ["films.example.com"]},
}
RESOURCE = RolloutResource.model_validate(SPEC)


def route(weights: dict[str, int], mirrors: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    """Returns a route as the cluster holds it, seen by the gateway in its generation."""
    document = http_route(OWNER, RESOURCE, weights, mirrors or {}, ("films-v2",))
    assert document is not None
    document["metadata"]["generation"] = 3
    conditions = [
        {"type": kind, "status": "True", "observedGeneration": 3, "reason": kind}
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {"parentRef": {"name": "gateway", "namespace": "kserve"}, "conditions": conditions}
    return document | {"status": {"parents": [parent]}} | changes


def test_an_inference_service_is_local_to_the_cluster_and_owned() -> None:
    document = inference_service(OWNER, "films-v2", VersionTemplate.of(RESOURCE))
    assert document["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert document["metadata"]["ownerReferences"][0]["controller"] is True
    predictor = document["spec"]["predictor"]
    # The last argument of a name wins: versions answer under the model's name, not their service's.
    assert predictor["model"]["args"] == ["--k=5", "--model=films", "--version=2"]
    assert (predictor["minReplicas"], predictor["serviceAccountName"]) == (2, "models")
    assert document["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "none"


def test_other_formats_get_kserves_own_argument() -> None:
    other = RolloutResource.model_validate(SPEC | {"predictor": {"modelFormat": "sklearn", "maxReplicas": 4}})
    document = inference_service(OWNER, "films-v2", VersionTemplate.of(other))
    assert document["spec"]["predictor"]["model"]["args"] == ["--model_name=films"]
    assert document["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "hpa"


def test_a_version_without_weight_is_not_named_by_the_route() -> None:
    document = http_route(OWNER, RESOURCE, {"films-v1": 100, "films-v2": 0}, {}, ("films-v2",))
    assert document is not None
    (rule,) = document["spec"]["rules"]
    assert [(ref["name"], ref["weight"]) for ref in rule["backendRefs"]] == [("films-v1-predictor", 100)]
    assert http_route(OWNER, RESOURCE, {"films-v1": 0}, {}, ()) is None


def test_callers_may_ask_for_the_candidate_only_while_it_has_traffic() -> None:
    asked = RolloutResource.model_validate(SPEC | {"traffic": SPEC["traffic"] | {"header": {"name": "x-variant"}}})

    def by_header(weights: dict[str, int]) -> list[str]:
        document = http_route(OWNER, asked, weights, {}, ("films-v2",))
        assert document is not None
        rules = [rule for rule in document["spec"]["rules"] if "headers" in rule["matches"][0]]
        return [rule["backendRefs"][0]["name"] for rule in rules]

    assert by_header({"films-v1": 90, "films-v2": 10}) == ["films-v2-predictor"]
    assert by_header({"films-v1": 100, "films-v2": 0}) == []


def test_copies_are_a_filter_of_the_rule() -> None:
    seen = route_of(route({"films-v1": 100}, {"films-v2": 30}), GATEWAY)
    assert (seen.weights, seen.mirrors) == ({"films-v1": 100}, {"films-v2": 30})


def test_a_route_that_still_copies_is_not_what_is_wanted_without_copies() -> None:
    copying, plain = route({"films-v1": 100}, {"films-v2": 30}), route({"films-v1": 100})
    assert not covers(copying["spec"], plain["spec"])
    assert not covers(plain["spec"], copying["spec"])
    # Servers leave empty lists out.
    stored = json.loads(json.dumps(plain["spec"]))
    del stored["rules"][0]["filters"]
    assert covers(stored, plain["spec"])


def test_weights_are_known_only_once_the_gateway_has_them_in_force() -> None:
    seen = route_of(route({"films-v1": 80, "films-v2": 20}), GATEWAY)
    assert (seen.reason, seen.weights) == (PROGRAMMED, {"films-v1": 80, "films-v2": 20})
    newer = route({"films-v1": 80, "films-v2": 20})
    newer["metadata"]["generation"] = 4
    assert (route_of(newer, GATEWAY).reason, route_of(newer, GATEWAY).weights) == (NOT_OBSERVED, None)
    assert route_of(route({"films-v1": 100}), ("kserve", "another")).reason == NOT_OBSERVED
    assert route_of(None, GATEWAY).reason == ROUTE_ABSENT
    for number, reason in ((0, NOT_ACCEPTED), (1, BACKENDS_NOT_RESOLVED)):
        refused = route({"films-v1": 100})
        refused["status"]["parents"][0]["conditions"][number]["status"] = "False"
        assert (route_of(refused, GATEWAY).reason, route_of(refused, GATEWAY).weights) == (reason, None)


def test_weights_that_others_wrote_are_read_as_the_shares_that_they_are() -> None:
    changed = route({"films-v1": 80, "films-v2": 20})
    for ref in changed["spec"]["rules"][0]["backendRefs"]:
        ref["weight"] = 1
    assert route_of(changed, GATEWAY).weights == {"films-v1": 50, "films-v2": 50}


def service(name: str, **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": "u", "labels": {}, **meta},
        "spec": {"predictor": {"minReplicas": 2, "model": {"storageUri": "s3://b/films/2"}}},
    }


def labels(name: str) -> dict[str, Any]:
    return {"labels": {"serving.kserve.io/inferenceservice": name}}


def deployment(name: str, *, updated: int = 2, observed: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-predictor", "generation": 1, **labels(name)},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": observed, "updatedReplicas": updated},
    }


def pod(name: str, number: int, *, ready: bool = True, waiting: str = "", restarts: int = 0) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "kserve-container", "restartCount": restarts}
    if waiting:
        container["state"] = {"waiting": {"reason": waiting}}
        container["lastState"] = {"terminated": {"exitCode": 1}}
    status = {
        "phase": "Running",
        "podIP": f"10.0.0.{number}",
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [container],
    }
    return {"metadata": {"name": f"{name}-{number}", **labels(name)}, "status": status}


def test_readiness_is_that_of_all_replicas_of_the_newest_template() -> None:
    name = "films-v2"
    pods = [pod(name, 1), pod(name, 2, ready=False)]
    arm = arms_of([service(name)], [deployment(name)], pods)[name]
    assert (arm.ready, arm.total, arm.crash_looping) == (1, 2, False)
    pods = [pod(name, 1), pod(name, 2)]
    assert arms_of([service(name)], [deployment(name)], pods)[name].ready == 2
    assert arms_of([service(name)], [deployment(name, updated=1)], pods)[name].ready == 1
    assert arms_of([service(name)], [deployment(name, observed=0)], pods)[name].ready == 0
    assert arms_of([service(name)], [], [])[name].total == 2


def test_a_crash_loop_is_seen_also_in_an_init_container() -> None:
    name = "films-v2"
    crashing = pod(name, 1, ready=False, waiting="CrashLoopBackOff", restarts=5)
    arm = arms_of([service(name)], [deployment(name)], [crashing])[name]
    assert (arm.crash_looping, arm.restarts) == (True, 5)
    assert "last exit 1" in arm.problem
    crashing["status"]["initContainerStatuses"] = crashing["status"].pop("containerStatuses")
    assert arms_of([service(name)], [deployment(name)], [crashing])[name].crash_looping
    pulling = pod(name, 1, ready=False, waiting="ImagePullBackOff")
    seen = arms_of([service(name)], [deployment(name)], [pulling])[name]
    assert (seen.crash_looping, "ImagePullBackOff" in seen.problem) == (False, True)


def test_a_version_is_gone_when_its_last_pod_is() -> None:
    name = "films-v2"
    leaving = service(name, deletionTimestamp="2026-01-01T00:00:00Z")
    arm = arms_of([leaving], [deployment(name)], [pod(name, 1)])[name]
    assert (arm.present, arm.total) == (False, 1)
    assert arms_of([], [], [pod(name, 1)])[name].total == 1
    sight = ClusterSight(arms_of([], [], []), route_of(route({"films-v1": 100}), GATEWAY))
    assert "films-v2" not in sight.observations({}, {})


def test_another_bundle_than_the_one_wanted_is_told_from_it() -> None:
    arms = arms_of([service("films-v2")], [deployment("films-v2")], [])
    sight = ClusterSight(arms, route_of(route({"films-v1": 100}), GATEWAY))
    same = sight.observations({"films-v2": "abc"}, {"films-v2": "s3://b/films/2"})["films-v2"]
    other = sight.observations({"films-v2": "abc"}, {"films-v2": "s3://b/films/3"})["films-v2"]
    assert same.digest == "abc"
    assert other.digest not in ("abc", None)


@pytest.mark.parametrize(
    ("actual", "wanted", "is_covered"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [{"x": 1, "y": 0}]}, {"a": [{"x": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({}, {"a": 1}, False),
        ({"a": None}, {"a": {"b": 1}}, False),
    ],
)
def test_what_a_server_adds_is_no_change_and_what_others_add_to_a_list_is(
    actual: Any, wanted: Any, *, is_covered: bool
) -> None:
    assert covers(actual, wanted) is is_covered
