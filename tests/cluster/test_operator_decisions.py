"""The operator on fake nodes: pods that are ready and answer nothing, counters made up by the weights in force.

Everything else is real: API server, KServe, the gateway's word on the route, Prometheus, and the operator's process,
which is killed, doubled, contradicted and cut off.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_namespace import Cluster
from made_up_traffic import MadeUpTraffic, prometheus_of
from operator_process import (
    ERRORS,
    GATEWAY,
    POLICY,
    OperatorProcess,
    Rollouts,
    operator,
    rollout,
    wait_for,
)
from serving_namespace import restricted_namespace

from slipway.serving.rollout.operator.kube import HTTP_ROUTES, INFERENCE_SERVICES, LEASES, ROLLOUTS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

FAKE = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
    "runtime": "fake",
}
STEP = {"minimum_dwell": "1s", "minimum_samples": 50, "requires": "noHarm"}
FAST = POLICY | {"steps": [{"weight": weight, **STEP} for weight in (20, 50, 100)]}
KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "8"))
SEED = int(os.environ.get("SLIPWAY_TEST_SEED", "7"))


class Stage:
    """A namespace with a runtime that nobody runs, made-up traffic and an operator."""

    def __init__(self, rollouts: Rollouts, traffic: MadeUpTraffic, prometheus: str, folder: Path) -> None:
        self.rollouts, self.traffic, self.prometheus, self.folder = rollouts, traffic, prometheus, folder
        self.host = f"{rollouts.namespace}.example.com"
        self.numbers = itertools.count(2)

    def want(self, version: str, **options: Any) -> None:
        """Says which version is wanted."""
        options.setdefault("policy", FAST)
        predictor = FAKE | options.pop("predictor", {})
        self.rollouts.apply(
            rollout(version, "s3://nowhere/films", self.host, predictor=predictor, smokeTest={"skip": True}, **options)
        )

    def next_version(self, *, bad: bool = False) -> str:
        """Returns a version that was not wanted before."""
        return f"{next(self.numbers)}{'bad' if bad else ''}"

    def begin(self) -> str:
        """Has some version serve; returns its Service."""
        if not self.rollouts.status():
            self.want("1")
        return self.settle()

    def settle(self) -> str:
        """Waits until nothing is in motion; returns the Service that has everything."""
        self.rollouts.wait_for_phase("Promoted", "RolledBack", seconds=180)
        (name,) = [name for name, weight in self.rollouts.route_weights().items() if weight == 100]
        return name


class ByName(dict[str, float]):
    """Share of errors by the name of a version: those called bad fail half of their requests."""

    def get(self, version: str, default: Any = None) -> Any:
        return 0.5 if version.endswith("bad") else default


def fake_runtime() -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "image": "nowhere.invalid/nothing:1",
        "args": ["--model_dir=/mnt/models"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "fake"},
        "spec": {
            "annotations": {"prometheus.io/scrape": "false"},
            "supportedModelFormats": [{"name": "slipway", "version": "1", "autoSelect": True}],
            "containers": [container],
        },
    }


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The namespace and its traffic, without an operator."""
    folder: Path = tmp_path_factory.mktemp("decisions")
    if not Cluster("default").get("nodes", "-l", "type=kwok")["items"]:
        pytest.skip("the cluster has no fake nodes (label type=kwok)")
    with restricted_namespace("decisions") as cluster:
        cluster.kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce-", check=False)
        cluster.kubectl("apply", "--server-side", "-f", "-", text=json.dumps(fake_runtime()))
        rollouts = Rollouts(cluster)

        def weights() -> dict[str, int]:
            names = rollouts.route_weights()
            return {name.removeprefix("films-v").removesuffix("-predictor"): w for name, w in names.items()}

        traffic = MadeUpTraffic(cluster.namespace, "films", weights, ByName())
        with prometheus_of(traffic, folder) as prometheus:
            yield Stage(rollouts, traffic, prometheus, folder)
            _drop_finalizers(rollouts)


def _drop_finalizers(rollouts: Rollouts) -> None:
    """Lets Rollouts go that no operator is there to end."""
    for one in rollouts.kube.list(ROLLOUTS, rollouts.namespace):
        patch = {"metadata": {"finalizers": None}}
        rollouts.kube.merge(ROLLOUTS, rollouts.namespace, one["metadata"]["name"], patch)
        rollouts.kube.delete(ROLLOUTS, rollouts.namespace, one["metadata"]["name"])


@pytest.fixture
def stage(ground: Stage) -> Iterator[Stage]:
    """With an operator, and some version that serves."""
    with operator(ground.rollouts.namespace, ground.folder, prometheus=ground.prometheus):
        ground.begin()
        yield ground


def test_it_refuses_a_cluster_that_cannot_split_traffic_and_says_why(stage: Stage) -> None:
    rollouts = stage.rollouts
    cases = {
        "no-gateway": ({"traffic": {"gateway": {"name": "nowhere"}, "hostnames": ["a.example"]}}, "GatewayMissing"),
        "no-runtime": ({"predictor": {"modelFormat": "unheard-of"}}, "RuntimeMissing"),
        "sticky": ({"policy": FAST | {"assignment": "user"}}, "UsersNotKept"),
        "same-host": ({"traffic": {"gateway": GATEWAY, "hostnames": [stage.host]}}, "ClaimedByAnother"),
    }
    try:
        for name, (change, reason) in cases.items():
            document = rollout("1", "s3://nowhere/x", f"{name}.example", name=name, predictor=FAKE)
            document["spec"] |= change
            rollouts.apply(document)

            def said(name: str = name, reason: str = reason) -> bool:
                conditions = rollouts.status(name).get("conditions", ())
                return any(one["type"] == "Preflight" and one["reason"] == reason for one in conditions)

            wait_for(reason, said, 60)
            assert rollouts.status(name)["phase"] == "Pending"
            assert f"{name}-v1" not in rollouts.services()
    finally:
        for name in cases:
            rollouts.cluster.kubectl("delete", "rollout", name, "--ignore-not-found", "--timeout=60s")


def test_the_definition_refuses_what_a_schema_cannot_say(ground: Stage) -> None:
    def refusal(**policy: Any) -> str:
        document = rollout("1", "s3://nowhere/x", "y.example", name="wrong", policy=policy)
        done = ground.rollouts.cluster.kubectl(
            "apply", "--server-side", "--dry-run=server", "-f", "-", text=json.dumps(document), check=False
        )
        assert done.returncode != 0, policy
        return done.stderr

    assert "must rise" in refusal(steps=[{"weight": 50}, {"weight": 20}, {"weight": 100}])
    assert "must rise" in refusal(steps=[{"weight": 50}, {"weight": 50}, {"weight": 100}])
    assert "last step must have weight 100" in refusal(steps=[{"weight": 50}])
    assert "copies are for weight 0" in refusal(steps=[{"weight": 50, "mirror": 5}, {"weight": 100}])
    assert "belongs to kind latency" in refusal(guardrails=[ERRORS | {"kind": "latency"}])
    assert "one without dry_run" in refusal(guardrails=[ERRORS | {"dry_run": True}])
    assert "a margin needs" in refusal(guardrails=[ERRORS | {"margin": {}}])
    assert "stepz: field not declared in schema" in refusal(stepz=[])


def test_kubectl_tells_an_engineer_on_call_where_a_rollout_stands(stage: Stage) -> None:
    head, row = stage.rollouts.cluster.kubectl("get", "ro", "films").stdout.splitlines()
    assert head.split() == ["NAME", "PHASE", "STEP", "WEIGHT", "VERDICT", "AGE"]
    assert row.split()[1] in ("Promoted", "RolledBack")
    described = stage.rollouts.cluster.kubectl("describe", "ro", "films").stdout
    assert "serves all traffic." in described or "Evidence of harm" in described


def test_inference_services_are_never_annotated_again(stage: Stage) -> None:
    before = stage.settle()
    stage.want(stage.next_version())
    seen: dict[str, Any] = {}

    def promoted() -> bool:
        for one in stage.rollouts.kube.list(INFERENCE_SERVICES, stage.rollouts.namespace):
            meta = one["metadata"]
            now = (meta["generation"], meta.get("annotations"), meta.get("labels"))
            assert seen.setdefault(meta["name"], now) == now
        return stage.settle() != before

    wait_for("the promotion", promoted, 120)


def test_replicas_follow_the_spec_at_once_and_before_any_weight(stage: Stage) -> None:
    version = stage.next_version()
    stage.want(version, predictor={"minReplicas": 3})
    rollouts = stage.rollouts

    def weighed() -> bool:
        weights = rollouts.route_weights()
        name = f"films-v{version}-predictor"
        if weights.get(name, 0) == 0:
            return False
        deployment = rollouts.cluster.get("deployment", name)
        assert deployment["status"].get("readyReplicas") == 3
        return True

    wait_for("its first weight", weighed, 120)
    stage.settle()


def test_no_data_never_promotes_and_goes_back_after_the_policys_time(stage: Stage, ground: Stage) -> None:
    before = stage.settle()
    version = stage.next_version()
    rollouts = stage.rollouts
    run = rollouts.status()["run"] + 1
    policy = FAST | {"no_data": {"hold_for": "6s", "then": "rollback"}}
    stage.traffic.silence(version)
    stage.want(version, policy=policy)
    status = rollouts.wait_for_phase("RolledBack", seconds=120, run=run)
    assert "No usable reading" in status["reason"] or "not split as set" in status["reason"]
    assert stage.traffic.largest[version] == 20
    assert rollouts.route_weights() == {before: 100}


def test_a_policy_edited_into_nonsense_is_named_and_the_last_valid_one_holds(stage: Stage) -> None:
    version = stage.next_version()
    rollouts = stage.rollouts
    gate = [FAST["steps"][0] | {"gate": True}, FAST["steps"][2]]  # type: ignore[index]
    run = rollouts.status()["run"] + 1
    stage.want(version, policy=FAST | {"steps": gate})
    rollouts.wait_for_phase("AwaitingGate", run=run)
    wrong = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 0.5}}
    stage.want(version, policy=FAST | {"steps": gate, "guardrails": [wrong]})

    def named() -> dict[str, Any] | None:
        conditions = rollouts.status()["conditions"]
        return next((one for one in conditions if one["type"] == "SpecValid" and one["status"] == "False"), None)

    condition = wait_for("the condition", named, 30)
    assert "odds_ratio" in condition["message"]
    rollouts.command("abort")
    rollouts.wait_for_phase("RolledBack", run=run)
    stage.want(version, policy=FAST)


def test_of_two_operators_one_leads_and_the_other_takes_over(ground: Stage, tmp_path: Path) -> None:
    namespace, rollouts = ground.rollouts.namespace, ground.rollouts
    flags = {"prometheus": ground.prometheus}
    first = OperatorProcess(namespace, tmp_path, name="first", flags=("--identity", "first"), **flags).start()  # type: ignore[arg-type]

    def holder() -> str:
        lease = rollouts.kube.get(LEASES, namespace, "slipway-operator")
        return "" if lease is None else str(lease["spec"].get("holderIdentity", ""))

    second = OperatorProcess(namespace, tmp_path, name="second", flags=("--identity", "second"), **flags)  # type: ignore[arg-type]
    try:
        wait_for("the first to lead", lambda: holder() == "first", 60)
        second.start()
        wait_for("the second to stand by", lambda: "waits for the Lease" in second.log.read_text(), 60)
        assert holder() == "first"
        first.kill()
        wait_for("the second to take over", lambda: holder() == "second", 60)
        assert second.stop() == 0
        # Given back, and not only run out.
        assert holder() == ""
    finally:
        first.end()
        second.end()


def test_a_second_service_of_another_owner_is_left_alone(stage: Stage) -> None:
    version = stage.next_version()
    rollouts = stage.rollouts
    foreign = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": f"films-v{version}", "annotations": {"serving.kserve.io/autoscalerClass": "none"}},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "nodeSelector": FAKE["nodeSelector"],
                "tolerations": FAKE["tolerations"],
                "model": {"modelFormat": {"name": "slipway"}, "runtime": "fake", "storageUri": "s3://elsewhere/y"},
            }
        },
    }
    rollouts.cluster.kubectl("apply", "-f", "-", text=json.dumps(foreign))
    before = stage.settle()
    run = rollouts.status()["run"] + 1
    stage.want(version, policy=FAST | {"readiness_timeout": "8s"})
    rollouts.wait_for_phase("RolledBack", run=run)
    found = rollouts.kube.get(INFERENCE_SERVICES, rollouts.namespace, f"films-v{version}")
    assert found is not None
    assert found["spec"]["predictor"]["model"]["storageUri"] == "s3://elsewhere/y"
    assert rollouts.route_weights() == {before: 100}
    rollouts.cluster.kubectl("delete", "inferenceservice", f"films-v{version}")


def slipway(*arguments: str, code: int = 0) -> str:
    """Runs the command line and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "slipway.cli.main", "rollout", *arguments], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_does_on_a_cluster_what_it_does_here(stage: Stage) -> None:
    rollouts = stage.rollouts
    context = rollouts.cluster.kubectl("config", "current-context").stdout.strip()
    there = ("films", "--context", context, "-n", rollouts.namespace)
    stage.settle()
    version = stage.next_version()
    run = rollouts.status()["run"] + 1
    gate = [STEP | {"weight": 20, "gate": True}, STEP | {"weight": 100}]
    stage.want(version, policy=FAST | {"steps": gate})
    rollouts.wait_for_phase("AwaitingGate", run=run)
    status = json.loads(slipway("status", *there, "-o", "json"))
    assert (status["phase"], status["weight"], status["candidate"]) == ("AwaitingGate", 20, f"films-v{version}")
    assert status["verdicts"][0]["guardrail"] == "errors"
    slipway("pause", *there)
    rollouts.wait_for_phase("Paused", run=run)
    slipway("resume", *there)
    rollouts.wait_for_phase("AwaitingGate", run=run)
    slipway("abort", *there)
    assert "Aborted" in slipway("watch", *there, code=3) + rollouts.wait_for_phase("RolledBack", run=run)["reason"]
    assert "RolledBack" in slipway("status", *there)
    text = slipway("explain", *there)
    assert "slipway_requests_total" in text
    kinds = {row["kind"] for row in json.loads(slipway("history", *there, "-o", "json"))[-1]["events"]}
    assert "phase" in kinds
    slipway("retry", *there)
    rollouts.wait_for_phase("AwaitingGate", run=run + 1)
    slipway("approve", *there)
    assert "Promoted" in slipway("watch", *there)
    slipway("start", f"films/{stage.next_version()}", *there[1:], code=2)
    another = stage.next_version()
    slipway("start", f"films/{another}", *there[1:], "--uri", "s3://nowhere/films")
    rollouts.wait_for_phase("AwaitingGate", run=run + 2)
    slipway("promote", *there)
    assert "Promoted" in slipway("watch", *there)


def test_without_prometheus_it_holds_says_so_and_goes_back_after_the_policys_time(ground: Stage) -> None:
    rollouts = ground.rollouts
    policy = FAST | {"no_data": {"hold_for": "6s", "then": "rollback"}}
    with operator(rollouts.namespace, ground.folder, prometheus="http://127.0.0.1:9", name="blind"):
        before = ground.begin()
        run = rollouts.status()["run"] + 1
        version = ground.next_version()
        ground.want(version, policy=policy)

        def said() -> bool:
            conditions = rollouts.status()["conditions"]
            told = [one for one in conditions if one["type"] == "MetricsAvailable" and one["status"] == "False"]
            return bool(told) and "Prometheus does not answer" in told[0]["message"]

        wait_for("the condition", said, 60, lambda: str(rollouts.brief()))
        status = rollouts.wait_for_phase("RolledBack", run=run)
    assert status["reason"].startswith("No usable reading")
    assert rollouts.route_weights() == {before: 100}
    assert ground.traffic.largest[version] == 20


def test_killed_at_random_points_all_end_right_and_no_weight_is_above_what_was_decided(ground: Stage) -> None:
    chance = random.Random(SEED)
    rollouts = ground.rollouts
    process = OperatorProcess(rollouts.namespace, ground.folder, prometheus=ground.prometheus, name="killed")
    process.start()
    kills = 0
    try:
        ground.begin()
        while kills < KILLS:
            bad = chance.random() < 0.5
            version = ground.next_version(bad=bad)
            before = ground.settle()
            run = rollouts.status()["run"] + 1
            ground.want(version)
            name = f"films-v{version}-predictor"
            began, decided = time.monotonic(), 0
            due = began + chance.uniform(0.2, 6.0)
            while True:
                status, weights = rollouts.status(), rollouts.route_weights()
                if status["run"] == run:
                    # The route is read after the status: what it says was decided before or is older.
                    decided = max(decided, status.get("weight", 0))
                    later = rollouts.status()
                    allowed = max(decided, later.get("weight", 0))
                    assert weights.get(name, 0) <= allowed, (weights, status["phase"])
                if status["run"] == run and status["phase"] in ("Promoted", "RolledBack"):
                    break
                assert time.monotonic() - began < 240, rollouts.brief()
                if time.monotonic() >= due and kills < KILLS:
                    process.kill()
                    kills += 1
                    process.start()
                    due = time.monotonic() + chance.uniform(3.5, 9.0)
                time.sleep(0.05)
            assert status["phase"] == ("RolledBack" if bad else "Promoted"), rollouts.brief()
            right = {before: 100} if bad else {name: 100}
            wait_for("the right route", lambda right=right: rollouts.route_weights() == right, 60)
            only = {next(iter(right)).removesuffix("-predictor")}
            wait_for("the end of the others", lambda only=only: rollouts.services() == only, 90)
    except BaseException:
        print(process.log.read_text()[-6000:])
        raise
    finally:
        process.end()
    print(f"killed {kills} times")


def test_the_route_is_ours_alone_and_owned(stage: Stage) -> None:
    route = stage.rollouts.kube.get(HTTP_ROUTES, stage.rollouts.namespace, "films")
    assert route is not None
    assert [one["kind"] for one in route["metadata"]["ownerReferences"]] == ["Rollout"]
    own = [one["metadata"]["name"] for one in stage.rollouts.kube.list(HTTP_ROUTES, stage.rollouts.namespace)]
    assert own == ["films"], "KServe writes none of its own for versions that are local to the cluster"
