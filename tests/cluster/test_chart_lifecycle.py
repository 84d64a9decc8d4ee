"""helm install, test, upgrade, rollback and uninstall on a real cluster, with a model served and its clicks counted."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_namespace import Cluster
from rendered import CHART, ROOT, helm
from serving_namespace import (
    REGISTRY,
    apply,
    ask,
    bucket,
    forwarded,
    inference_service,
    is_ready,
    restricted_namespace,
    store_access,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

OWN = "app.kubernetes.io/instance=slipway"


def values(folder: Path, namespace: str, **operator: Any) -> str:
    """Writes values for a cluster that others use too; returns helm's option."""
    own = yaml.safe_load(Cluster(namespace).kubectl("get", "clusterstoragecontainer", "default", "-o", "yaml").stdout)
    redis = os.environ.get("SLIPWAY_TEST_REDIS_IMAGE")
    chosen = {
        "image": {"registry": REGISTRY},
        "crd": {"install": False},
        "operator": {"prometheusUrl": "http://prometheus.monitoring:9090", **operator},
        "runtime": {"scope": "Namespaced", "name": namespace},
        "storageContainer": {"create": True, "image": own["spec"]["container"]["image"]},
        "collector": {"wait": 3},
        "trial": {"redis": {"enabled": bool(redis), "image": redis or "none"}},
    }
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(chosen))
    return f"--values={path}"


@pytest.fixture
def namespace() -> Iterator[Cluster]:
    with restricted_namespace("release") as cluster:
        if "rollouts.slipway.dev" not in cluster.kubectl("get", "crd", "-o", "name").stdout:
            pytest.skip("the cluster has no definition of Rollout, which belongs to all its users")
        try:
            yield cluster
        finally:
            helm("uninstall", "slipway", "--namespace", cluster.namespace, check=False)


def release(cluster: Cluster, verb: str, *arguments: str) -> str:
    """Runs a verb of helm on the release and waits for what it started."""
    return helm(verb, "slipway", *arguments, "--namespace", cluster.namespace, timeout=400).stdout


def signing_key(cluster: Cluster) -> bytes:
    return base64.b64decode(cluster.get("secret", "slipway-predictor")["data"]["signing-key"])


def left_over(cluster: Cluster) -> set[str]:
    """Returns what carries the release's label, and the Leases of the namespace."""
    kinds = cluster.kubectl("api-resources", "--verbs=list,delete", "--namespaced", "-o", "name").stdout.split()
    asked = ",".join(kind for kind in kinds if not kind.startswith(("events", "endpoints")))
    found = cluster.kubectl("get", asked, "-l", OWN, "-o", "name", "--ignore-not-found").stdout.split()
    found += cluster.kubectl("get", "leases", "-o", "name").stdout.split()
    for kind in ("clusterroles", "clusterrolebindings", "clusterstoragecontainers", "clusterservingruntimes"):
        listed = cluster.get(kind, "-l", OWN)["items"]
        found += [f"{kind}/{each['metadata']['name']}" for each in listed if cluster.namespace in str(each)]
    return set(found)


def test_a_release_is_installed_tested_upgraded_put_back_and_taken_away(namespace: Cluster, tmp_path: Path) -> None:
    waiting = ("--wait", "--timeout", "300s")
    notes = release(namespace, "install", str(CHART), values(tmp_path, namespace.namespace), *waiting)
    assert "helm test slipway" in notes
    told = release(namespace, "test", "--logs", "--timeout", "300s")
    assert "the operator is ready" in told
    assert "the collector answers" in told
    key = signing_key(namespace)
    lease = namespace.get("lease", "slipway-operator")["spec"]["holderIdentity"]
    pods = namespace.get("pods", "-l", "app.kubernetes.io/component=operator")["items"]
    assert lease in {pod["metadata"]["name"] for pod in pods}
    assert len(pods) == 2

    release(namespace, "upgrade", str(CHART), values(tmp_path, namespace.namespace, interval=3, replicas=1), *waiting)
    operator = namespace.get("deployment", "slipway-operator")
    assert operator["status"]["readyReplicas"] == 1
    assert "--interval=3" in operator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert signing_key(namespace) == key, "ids that were given out must stay valid"

    release(namespace, "rollback", "1", *waiting)
    operator = namespace.get("deployment", "slipway-operator")
    assert operator["spec"]["replicas"] == 2
    assert "--interval=5" in operator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert signing_key(namespace) == key

    told = release(namespace, "uninstall", "--wait", "--timeout", "120s")
    namespace.wait_for(
        "the end of what was installed",
        lambda: left_over(namespace) <= {"lease.coordination.k8s.io/slipway-operator"},
        60,
    )
    assert "kubectl delete lease slipway-operator" in notes


def test_what_is_installed_serves_a_model_and_counts_its_clicks(namespace: Cluster, tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location("predictor_conftest", ROOT / "tests/predictor/conftest.py")
    assert specification is not None
    assert specification.loader is not None
    helpers = importlib.util.module_from_spec(specification)
    sys.modules["predictor_conftest"] = helpers
    specification.loader.exec_module(helpers)
    with bucket() as own:
        release(
            namespace,
            "install",
            str(CHART),
            values(tmp_path, namespace.namespace, replicas=1),
            "--wait",
            "--timeout=300s",
        )
        apply(namespace, *store_access())
        uri = own.put(helpers.make_bundle(tmp_path / "films", (helpers.VIEW,)), "films")
        apply(namespace, inference_service("films", uri, version="1"))
        namespace.wait_for("the predictor", lambda: is_ready(namespace, "films"), 240)
        with (
            forwarded(namespace, "service/films-predictor", 80) as predictor,
            forwarded(namespace, "service/slipway-collector", 9000) as collector,
            forwarded(namespace, "service/slipway-collector", 9001) as shown,
        ):
            # Redis answers where there is one: the feature is missing there, the server is not. One read may be late.
            reached = bool(os.environ.get("SLIPWAY_TEST_REDIS_IMAGE"))
            reason = "features_missing" if reached else "features_unreachable"

            def answered() -> Any:
                status, content = ask(predictor, "POST", "/v1/models/films:predict", {"instances": [{"user": "1"}]})
                assert status == 200, content
                answer = json.loads(content)
                return answer if answer["predictions"][0]["fallback"] == reason else None

            answer = namespace.wait_for(f"an answer with {reason}", answered, 60)
            (prediction,) = answer["predictions"]
            click = {"request_id": answer["request_id"], "item": prediction["items"][0], "type": "click"}
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:  # the click may overtake the event of its prediction
                status, content = ask(collector, "POST", "/v1/feedback", click)
                if json.loads(content).get("outcome") != "unknown":
                    break
            assert status == 202, content
            forged = click | {"request_id": answer["request_id"][:-2] + "AA"}
            assert ask(collector, "POST", "/v1/feedback", forged)[0] == 403
            series = b'slipway_joined_clicked_requests_total{model="films",version="1"} 1.0'
            namespace.wait_for("the click", lambda: series in ask(shown, "GET", "/metrics")[1], 30)


def test_policies_are_enforced_where_the_network_enforces_any(namespace: Cluster, tmp_path: Path) -> None:
    release(
        namespace, "install", str(CHART), values(tmp_path, namespace.namespace, replicas=1), "--wait", "--timeout=300s"
    )
    script = (
        "import socket, sys\n"
        "try:\n"
        f"    socket.create_connection(('slipway-operator.{namespace.namespace}', 8080), 5)\n"
        "except TimeoutError:\n"
        "    sys.exit(3)\n"
    )
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "stranger",
                    "image": f"{REGISTRY}/slipway-collector:0.1.0",
                    "command": ["python", "-c", script],
                    "securityContext": restricted,
                }
            ],
        },
    }
    apply(namespace, stranger)

    def ended() -> Any:
        (status,) = namespace.get("pod", "stranger")["status"].get("containerStatuses") or [{"state": {}}]
        return status["state"].get("terminated")

    code = namespace.wait_for("the stranger's attempt", ended, 120)["exitCode"]
    if code == 0:
        pytest.skip("the network of this cluster enforces no NetworkPolicy: a stranger reached the operator")
    assert code == 3
