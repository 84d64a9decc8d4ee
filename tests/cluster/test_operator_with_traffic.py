"""The operator with real predictor pods under real load through the gateway: up, back, and everything put right."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from operator_process import (
    GATEWAY,
    POLICY,
    OperatorProcess,
    Rollouts,
    gateway_address,
    load,
    operator,
    prometheus_address,
    rollout,
    wait_for,
)
from rendered import ROOT
from serving_namespace import (
    Bucket,
    apply,
    bucket,
    restricted_namespace,
    restricted_storage,
    runtime,
    store_access,
)

from slipway.serving.rollout.operator.kube import HTTP_ROUTES, INFERENCE_SERVICES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONGER = POLICY | {"steps": [step | {"minimum_samples": 300} for step in POLICY["steps"]]}  # type: ignore[operator]
FAULTY = "--predictor=slipway.examples.films.faulty_predictor:FaultyModel"


class Stage:
    """A namespace with a runtime, bundles, an operator, and version 1 serving."""

    def __init__(self, rollouts: Rollouts, bundles: Bucket, uri: str, process: OperatorProcess, runtime: str) -> None:
        self.rollouts, self.bundles, self.uri, self.operator, self.runtime = rollouts, bundles, uri, process, runtime
        self.host = f"{rollouts.namespace}.example.com"

    def want(self, version: str, **options: Any) -> None:
        """Says which version is wanted."""
        predictor = {
            "serviceAccountName": "models",
            "runtime": self.runtime,
            "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            **options.pop("predictor", {}),
        }
        self.rollouts.apply(rollout(version, self.uri, self.host, predictor=predictor, **options))


def bundle_maker() -> ModuleType:
    """Returns the predictor tests' module that makes small bundles."""
    specification = importlib.util.spec_from_file_location("predictor_conftest", ROOT / "tests/predictor/conftest.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["predictor_conftest"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Where version 1 serves everything; each test brings another version and leaves one that serves."""
    folder: Path = tmp_path_factory.mktemp("stage")
    gateway_address()
    prometheus = prometheus_address()
    with restricted_namespace("operator") as cluster, restricted_storage(cluster) as storage, bucket() as bundles:
        own = runtime(storage)
        own["metadata"]["name"] = "own"
        own["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
        apply(cluster, *store_access(), own)
        uri = bundles.put(bundle_maker().make_bundle(folder / "films"), "films")
        with operator(cluster.namespace, folder, prometheus=prometheus) as process:
            made = Stage(Rollouts(cluster), bundles, uri, process, "own")
            made.want("1")
            made.rollouts.wait_for_phase("Promoted", seconds=300)
            yield made
            cluster.kubectl("delete", "rollouts", "--all", "--timeout=60s", check=False)


@pytest.fixture
def calm(stage: Stage) -> Stage:
    """The stage when nothing is in motion; names the version that serves."""
    stage.rollouts.wait_for_phase("Promoted", "RolledBack", "Completed", seconds=300)
    return stage


def serving(stage: Stage) -> str:
    """Returns the version that has all traffic."""
    (name,) = [arm for arm, weight in stage.rollouts.route_weights().items() if weight == 100]
    return name.removeprefix("films-v").removesuffix("-predictor")


def test_a_good_version_goes_to_all_traffic_and_no_request_fails(calm: Stage) -> None:
    before = serving(calm)
    seen: set[int] = set()
    run = calm.rollouts.status()["run"] + 1
    with load(gateway_address(), calm.host) as requests:
        calm.want("2")

        def promoted() -> bool:
            seen.add(calm.rollouts.route_weights().get("films-v2-predictor", 0))
            status = calm.rollouts.status()
            return status["run"] == run and status["phase"] == "Promoted"

        wait_for("the promotion", promoted, 300, lambda: str(calm.rollouts.brief()))
        wait_for("the old version's end", lambda: calm.rollouts.services() == {"films-v2"}, 60)
        answered = requests.total
        wait_for("some requests after its end", lambda: requests.total > answered + 300, 60)
    assert requests.failed == []
    assert requests.answers.keys() == {before, "2"}
    assert seen == {0, 20, 50, 100}
    print(f"{requests.total} requests, none failed: {requests.answers}")


def test_a_failing_version_goes_back_to_nothing(calm: Stage) -> None:
    before = serving(calm)
    run = calm.rollouts.status()["run"] + 1
    with load(gateway_address(), calm.host) as requests:
        calm.want("bad", predictor={"args": [FAULTY]}, policy=LONGER)
        status = calm.rollouts.wait_for_phase("RolledBack", seconds=300, run=run)
        wait_for("its end", lambda: calm.rollouts.services() == {f"films-v{before}"}, 60)
        failed = len(requests.failed)
        answered = requests.total
        wait_for("some requests after its end", lambda: requests.total > answered + 300, 60)
    assert "Evidence of harm" in status["reason"] or "hard limit" in status["reason"]
    assert status["verdict"] == "FAIL"
    assert calm.rollouts.route_weights() == {f"films-v{before}-predictor": 100}
    assert all(failure.startswith("500") for failure in requests.failed), "only the bad version's own errors"
    assert len(requests.failed) == failed
    reasons = {event["reason"] for event in calm.rollouts.cluster.get("events")["items"]}
    assert "PhaseChanged" in reasons
    print(f"{failed} of {requests.total} requests failed, all answered 500 by the bad version: {status['reason']}")


def test_a_version_that_went_back_is_not_tried_again_by_itself(calm: Stage) -> None:
    status = calm.rollouts.status()
    if status["phase"] != "RolledBack":
        pytest.skip("nothing went back before")
    calm.want("bad", predictor={"args": [FAULTY], "minReplicas": 1}, smokeTest={"port": 8080})
    generation = calm.rollouts.cluster.get("rollout", "films")["metadata"]["generation"]
    wait_for("a look at it", lambda: calm.rollouts.status()["observedGeneration"] == generation, 60)
    after = calm.rollouts.status()
    assert (after["phase"], after["run"]) == ("RolledBack", status["run"])
    assert "films-vbad" not in calm.rollouts.services()


def test_a_candidate_that_dies_has_no_traffic_within_seconds(calm: Stage) -> None:
    before = serving(calm)
    run = calm.rollouts.status()["run"] + 1
    gate = POLICY | {"steps": [{**POLICY["steps"][1], "gate": True}, POLICY["steps"][2]]}  # type: ignore[index]
    with load(gateway_address(), calm.host, pause=0.02):
        calm.want("3", policy=gate)
        calm.rollouts.wait_for_phase("AwaitingGate", seconds=300, run=run)
        # Without its runtime's image, the pod that replaces the one deleted never starts.
        cluster = calm.rollouts.cluster
        patch = '{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"nowhere"}}}}}'
        cluster.kubectl("patch", "deployment", "films-v3-predictor", "-p", patch, check=False)
        cluster.kubectl("delete", "pods", "-l", "serving.kserve.io/inferenceservice=films-v3", "--wait=false")
        calm.rollouts.wait_for_phase("RollingBack", "RolledBack", seconds=60, run=run)
        status = calm.rollouts.wait_for_phase("RolledBack", seconds=120, run=run)
    assert "Hard fault" in status["reason"]
    assert calm.rollouts.route_weights() == {f"films-v{before}-predictor": 100}


def test_another_version_that_is_wanted_in_the_middle_replaces_the_first(calm: Stage) -> None:
    before = serving(calm)
    run = calm.rollouts.status()["run"] + 1
    gate = POLICY | {"steps": [{**POLICY["steps"][0], "gate": True}, POLICY["steps"][2]]}  # type: ignore[index]
    with load(gateway_address(), calm.host) as requests:
        calm.want("4", policy=gate)
        calm.rollouts.wait_for_phase("AwaitingGate", seconds=300, run=run)
        calm.want("5", policy=gate)
        calm.rollouts.wait_for_phase("AwaitingGate", seconds=300, run=run + 1)
        assert calm.rollouts.route_weights() == {f"films-v{before}-predictor": 80, "films-v5-predictor": 20}
        calm.rollouts.command("approve")
        calm.rollouts.wait_for_phase("Promoted", seconds=300, run=run + 1)
        wait_for("the end of all others", lambda: calm.rollouts.services() == {"films-v5"}, 60)
    assert requests.failed == []
    assert requests.answers.keys() == {before, "4", "5"}


def test_a_route_that_others_change_or_delete_is_put_right(calm: Stage) -> None:
    rollouts, cluster = calm.rollouts, calm.rollouts.cluster
    right = rollouts.route_weights()
    (service,) = right
    patch = [{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "somebody-elses"}]
    cluster.kubectl("patch", "httproute", "films", "--type=json", "-p", str(patch).replace("'", '"'))
    wait_for("the route as decided", lambda: rollouts.route_weights() == right, 30)
    cluster.kubectl("delete", "httproute", "films")
    wait_for("the route anew", lambda: rollouts.route_weights() == right, 30)
    reasons = [event["reason"] for event in cluster.get("events")["items"]]
    assert reasons.count("RouteRestored") >= 2
    route = rollouts.kube.get(HTTP_ROUTES, rollouts.namespace, "films")
    assert route is not None
    assert route["metadata"]["ownerReferences"][0]["kind"] == "Rollout"
    assert any(one["manager"] == "slipway-operator" for one in route["metadata"]["managedFields"])
    assert service.startswith("films-v")


def test_a_version_that_serves_is_made_anew_where_it_is_deleted(calm: Stage) -> None:
    rollouts = calm.rollouts
    (name,) = rollouts.services()
    old = rollouts.kube.get(INFERENCE_SERVICES, rollouts.namespace, name)
    assert old is not None
    rollouts.kube.delete(INFERENCE_SERVICES, rollouts.namespace, name)

    def anew() -> bool:
        found = rollouts.kube.get(INFERENCE_SERVICES, rollouts.namespace, name)
        return found is not None and found["metadata"]["uid"] != old["metadata"]["uid"]

    wait_for("the version anew", anew, 90)
    with load(gateway_address(), calm.host) as requests:
        wait_for("answers", lambda: sum(requests.answers.values()) > 20, 120)


def test_callers_who_ask_for_the_candidate_by_a_header_get_it(calm: Stage) -> None:
    run = calm.rollouts.status()["run"] + 1
    gate = POLICY | {"steps": [{**POLICY["steps"][0], "gate": True}, POLICY["steps"][2]]}  # type: ignore[index]
    traffic = {"gateway": GATEWAY, "hostnames": [calm.host], "header": {"name": "x-variant", "value": "new"}}
    with load(gateway_address(), calm.host):
        calm.want("6", policy=gate, traffic=traffic)
        calm.rollouts.wait_for_phase("AwaitingGate", seconds=300, run=run)
        with load(gateway_address(), calm.host, headers={"x-variant": "new"}) as asking:
            wait_for("their answers", lambda: asking.total > 100, 60)
        assert asking.answers.keys() == {"6"}
        calm.rollouts.command("abort")
        calm.rollouts.wait_for_phase("RolledBack", seconds=120, run=run)
        with load(gateway_address(), calm.host, headers={"x-variant": "new"}) as asking:
            wait_for("their answers", lambda: asking.total > 100, 60)
        assert "6" not in asking.answers
    assert asking.failed == []


def makes_copies(stage: Stage) -> bool:
    """Returns whether the cluster's gateway says that it copies a share of the requests."""
    (gateway,) = [one for one in stage.rollouts.cluster.get("gateways", "-A")["items"] if is_ours(one)]
    name = gateway["spec"]["gatewayClassName"]
    features = stage.rollouts.cluster.get("gatewayclass", name)["status"].get("supportedFeatures", ())
    return {"HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"} <= {one["name"] for one in features}


def is_ours(gateway: dict[str, Any]) -> bool:
    meta = gateway["metadata"]
    return (meta["name"], meta["namespace"]) == (GATEWAY["name"], GATEWAY["namespace"])


COPIES = {"weight": 0, "mirror": 50, "minimum_dwell": "2s", "minimum_samples": 200}
SHADOW = POLICY | {"strategy": "shadow", "steps": [COPIES | {"gate": True}]}


def test_a_shadow_is_refused_where_the_gateway_makes_no_copies(calm: Stage) -> None:
    if makes_copies(calm):
        pytest.skip("the gateway makes copies")
    right = calm.rollouts.route_weights()
    with load(gateway_address(), calm.host) as requests:
        calm.want("7", policy=SHADOW)

        def refused() -> bool:
            conditions = calm.rollouts.status()["conditions"]
            return any(one["reason"] == "CopiesNotSupported" for one in conditions)

        wait_for("the refusal", refused, 60)
        answered = requests.total
        wait_for("some requests more", lambda: requests.total > answered + 100, 60)
    assert requests.failed == []
    assert calm.rollouts.route_weights() == right
    assert "films-v7" not in calm.rollouts.services()


def test_a_shadow_answers_copies_that_nobody_sees(calm: Stage) -> None:
    if not makes_copies(calm):
        pytest.skip("the gateway makes no copies")
    before = serving(calm)
    run = calm.rollouts.status()["run"] + 1
    with load(gateway_address(), calm.host) as requests:
        calm.want("7", policy=SHADOW)
        calm.rollouts.wait_for_phase("AwaitingGate", seconds=300, run=run)
        verdict = next(one for one in calm.rollouts.status()["verdicts"] if one["guardrail"] == "errors")
        calm.rollouts.command("approve")
        status = calm.rollouts.wait_for_phase("Completed", seconds=120, run=run)
        wait_for("its end", lambda: calm.rollouts.services() == {f"films-v{before}"}, 60)
    assert requests.failed == []
    assert requests.answers.keys() == {before}
    assert verdict["samples"] >= 200
    assert calm.rollouts.route_weights() == {f"films-v{before}-predictor": 100}
    print(f"{verdict['samples']} copies beside {verdict['stableSamples']} requests: {status['reason']}")


def test_blue_and_green_change_places_at_once_and_blue_stays_for_the_watch(calm: Stage) -> None:
    before = serving(calm)
    run = calm.rollouts.status()["run"] + 1
    step = {"weight": 100, "minimum_dwell": "1s", "minimum_samples": 0}
    policy = POLICY | {"strategy": "blueGreen", "steps": [step], "watch": {"duration": "1h"}}
    with load(gateway_address(), calm.host) as requests:
        calm.want("8", policy=policy)
        calm.rollouts.wait_for_phase("Watching", seconds=300, run=run)
        assert calm.rollouts.services() == {f"films-v{before}", "films-v8"}
        assert calm.rollouts.route_weights() == {"films-v8-predictor": 100}
        calm.rollouts.command("abort")
        back = {f"films-v{before}-predictor": 100}
        wait_for("the way back", lambda: calm.rollouts.route_weights() == back, 20)
        calm.rollouts.wait_for_phase("RolledBack", seconds=120, run=run)
    assert requests.failed == []
    assert requests.answers.keys() == {before, "8"}


def test_a_deleted_rollout_takes_its_objects_along(calm: Stage) -> None:
    cluster, rollouts = calm.rollouts.cluster, calm.rollouts
    cluster.kubectl("delete", "rollout", "films", "--timeout=60s")
    wait_for("the end of the route", lambda: rollouts.route_weights() == {}, 60)
    wait_for("the end of its versions", lambda: rollouts.services() == set(), 90)
