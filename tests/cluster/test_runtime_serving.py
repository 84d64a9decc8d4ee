"""The runtime on a real KServe: bundles from an object store and a volume, what is refused, the end of a pod."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cluster_namespace import Cluster
from rendered import ROOT
from serving_namespace import (
    REGISTRY,
    Bucket,
    apply,
    ask,
    bucket,
    forwarded,
    inference_service,
    is_ready,
    pods_of,
    predict,
    restricted_namespace,
    restricted_storage,
    runtime,
    store_access,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

READY_SECONDS = 240.0
USERS = ("1", "7", "12", "nobody")
LOAD = """
import http.client, json, sys, time
failed, answered, end = [], 0, time.monotonic() + float(sys.argv[2])
body = json.dumps({"instances": [{"user": "1"}]})
while time.monotonic() < end:
    connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=10)
    try:
        connection.request("POST", "/v1/models/films:predict", body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
        answered += status == 200
        if status != 200:
            failed.append(status)
    except OSError as error:
        failed.append(repr(error))
    finally:
        connection.close()
    time.sleep(0.005)
print(json.dumps({"answered": answered, "failed": failed}))
"""


@dataclass
class Serving:
    """A namespace in which bundles are served."""

    cluster: Cluster
    bucket: Bucket
    bundle: Path


@pytest.fixture(scope="module")
def helpers() -> ModuleType:
    """The predictor tests' own bundles and processes."""
    specification = importlib.util.spec_from_file_location("predictor_conftest", ROOT / "tests/predictor/conftest.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["predictor_conftest"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def serving(helpers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with bucket() as own, restricted_namespace("runtime") as cluster, restricted_storage(cluster) as storage:
        secret, account = store_access()
        apply(cluster, runtime(storage), secret, account)
        bundle = helpers.make_bundle(tmp_path_factory.mktemp("films") / "films")
        uri = own.put(bundle, "films/v1")
        apply(cluster, inference_service("films-v1", uri, version="1", replicas=2))
        yield Serving(cluster, own, bundle)


@pytest.fixture
def ready(serving: Serving) -> Serving:
    """As `serving`, once both copies of films-v1 are ready."""
    serving.cluster.wait_for(
        "two ready predictors",
        lambda: (
            is_ready(serving.cluster, "films-v1")
            and serving.cluster.get("deployment", "films-v1-predictor")["status"].get("readyReplicas") == 2
        ),
        READY_SECONDS,
    )
    return serving


def test_a_bundle_of_the_object_store_answers_as_on_one_machine(
    ready: Serving, helpers: ModuleType, tmp_path: Path
) -> None:
    with forwarded(ready.cluster, "service/films-v1-predictor", 80) as port:
        on_the_cluster = predict(port, *USERS)
    with helpers.running_predictor(ready.bundle, tmp_path) as local:
        _, here = local.predict(*({"user": user} for user in USERS))
    assert on_the_cluster == here["predictions"]
    assert on_the_cluster[-1]["fallback"] == "unknown_user"


def test_metrics_are_for_scrapers_and_not_for_who_comes_through_a_proxy(ready: Serving) -> None:
    pod = pods_of(ready.cluster, "films-v1")[0]["metadata"]["name"]
    with forwarded(ready.cluster, f"pod/{pod}", 8080) as port:
        status, text = ask(port, "GET", "/metrics")
        assert status == 200
        assert b'slipway_bundle_info{family="als"' in text or b"slipway_bundle_info{" in text
        assert ask(port, "GET", "/metrics", **{"X-Forwarded-For": "203.0.113.7"})[0] == 404


def test_prometheus_of_the_cluster_scrapes_every_predictor(ready: Serving) -> None:
    prometheus = os.environ.get("SLIPWAY_PROMETHEUS_URL")
    if not prometheus:
        pytest.skip("SLIPWAY_PROMETHEUS_URL names no Prometheus that scrapes the cluster")
    query = f'count(slipway_bundle_info{{namespace="{ready.cluster.namespace}",model="films",version="1"}})'

    def found() -> bool:
        url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
        return bool(result) and result[0]["value"][1] == "2"

    ready.cluster.wait_for("series of both predictors", found, READY_SECONDS)


def test_a_corrupt_bundle_never_gets_ready_and_says_why(serving: Serving, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(serving.bundle, broken)
    weights = bytearray((broken / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(weights)
    uri = serving.bucket.put(broken, "films/broken")
    apply(serving.cluster, inference_service("films-broken", uri, version="2"))
    try:

        def reason() -> str:
            for pod in pods_of(serving.cluster, "films-broken"):
                for status in pod["status"].get("containerStatuses", ()):
                    assert not status["ready"]
                    ended = status["state"].get("terminated") or status["lastState"].get("terminated")
                    if ended:
                        return str(ended["message"])
            return ""

        message = serving.cluster.wait_for("the end of the predictor", reason, READY_SECONDS)
        assert "weights.safetensors was altered" in message
        assert "fetch the bundle again" in message
        assert not is_ready(serving.cluster, "films-broken")
    finally:
        serving.cluster.kubectl("delete", "inferenceservice", "films-broken", "--wait=false")


def test_no_request_fails_while_a_predictor_is_taken_away(ready: Serving) -> None:
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    host = f"films-v1-predictor.{ready.cluster.namespace}"
    load = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "load"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "load",
                    "image": f"{REGISTRY}/slipway-predictor:0.1.0",
                    "command": ["python", "-c", LOAD, host, "40"],
                    "securityContext": restricted,
                }
            ],
        },
    }
    apply(ready.cluster, load)
    ready.cluster.wait_for(
        "the load", lambda: ready.cluster.get("pod", "load")["status"]["phase"] == "Running", READY_SECONDS
    )
    before = {pod["metadata"]["name"] for pod in pods_of(ready.cluster, "films-v1")}
    ready.cluster.kubectl("delete", "pod", sorted(before)[0], "--wait=false")
    ready.cluster.wait_for(
        "the end of the load", lambda: ready.cluster.get("pod", "load")["status"]["phase"] == "Succeeded", READY_SECONDS
    )
    result = json.loads(ready.cluster.kubectl("logs", "load").stdout)
    assert result["failed"] == []
    assert result["answered"] > 100
    assert sorted(before)[0] not in {pod["metadata"]["name"] for pod in pods_of(ready.cluster, "films-v1")}


@pytest.fixture
def volume(serving: Serving) -> Iterator[Path]:
    """A claim `models` whose volume is a folder that this machine shares with the cluster's nodes."""
    shared = os.environ.get("SLIPWAY_TEST_NODE_DIRECTORY")
    if not shared:
        pytest.skip("SLIPWAY_TEST_NODE_DIRECTORY names no folder that the nodes have too")
    folder = Path(shared) / f"slipway-test-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    size = {"storage": "10Mi"}
    modes = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    apply(
        serving.cluster,
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": folder.name},
            "spec": {"capacity": size, "hostPath": {"path": str(folder)}, **modes},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {"resources": {"requests": size}, "volumeName": folder.name, **modes},
        },
    )
    try:
        yield folder
    finally:
        serving.cluster.kubectl("delete", "inferenceservice", "films-volume", "--ignore-not-found")
        serving.cluster.kubectl("delete", "persistentvolumeclaim", "models", "--wait=false")
        serving.cluster.kubectl("delete", "persistentvolume", folder.name, "--wait=false")
        shutil.rmtree(folder)


def test_a_bundle_of_a_volume_is_served(serving: Serving, volume: Path) -> None:
    shutil.copytree(serving.bundle, volume / "films")
    apply(serving.cluster, inference_service("films-volume", "pvc://models/films", version="3"))
    serving.cluster.wait_for("the predictor", lambda: is_ready(serving.cluster, "films-volume"), READY_SECONDS)
    with forwarded(serving.cluster, "service/films-volume-predictor", 80) as port:
        answer: Any = predict(port, "1")
    assert len(answer[0]["items"]) == 10
    (pod,) = pods_of(serving.cluster, "films-volume")
    assert pod["spec"].get("initContainers", []) == []


def test_kserve_scales_an_inference_service_that_asks_for_it(serving: Serving) -> None:
    service = inference_service("films-scaled", serving.bucket.put(serving.bundle, "films/scaled"), version="4")
    service["metadata"]["annotations"] = {"serving.kserve.io/autoscalerClass": "hpa"}
    service["spec"]["predictor"] |= {"minReplicas": 1, "maxReplicas": 3}
    apply(serving.cluster, service)
    try:
        scaler = serving.cluster.wait_for(
            "the autoscaler",
            lambda: serving.cluster.get("horizontalpodautoscalers")["items"],
            60,
        )[0]
        assert scaler["spec"]["scaleTargetRef"]["name"] == "films-scaled-predictor"
        assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (1, 3)
    finally:
        serving.cluster.kubectl("delete", "inferenceservice", "films-scaled", "--wait=false")
