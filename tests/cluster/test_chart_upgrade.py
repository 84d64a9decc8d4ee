"""Upgrading the chart in the middle of a rollout: weights stay, no request fails, the rollout ends well."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from cluster_namespace import Cluster
from rendered import CHART, ROOT, helm
from serving_namespace import REGISTRY, apply, bucket, restricted_namespace, store_access

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHIPPED = ("charts", "manifests/crd", "monitoring")


@pytest.fixture
def gateway() -> tuple[str, int]:
    """Address of the cluster's gateway, as this machine reaches it."""
    url = urlsplit(os.environ.get("SLIPWAY_TEST_GATEWAY_URL", ""))
    if not url.hostname:
        pytest.skip("SLIPWAY_TEST_GATEWAY_URL names no gateway (kserve/kserve-ingress-gateway)")
    return url.hostname, url.port or 80


@pytest.fixture
def previous_chart(tmp_path: Path) -> Path:
    """The chart as it was before its latest change."""
    command = ["git", "log", "-2", "--format=%H", "--", *SHIPPED]
    commits = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    if len(commits) < 2:
        pytest.skip("there is no earlier commit of the chart")
    folder = tmp_path / "previous"
    folder.mkdir()
    archive = tmp_path / "previous.tar"
    subprocess.run(["git", "archive", "-o", str(archive), commits[1], *SHIPPED], cwd=ROOT, check=True)
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="tar")  # links lead from the chart to what it ships
    return folder / "charts" / "slipway"


class Load(threading.Thread):
    """Asks the gateway again and again; keeps what failed and which version answered."""

    def __init__(self, address: tuple[str, int], host: str) -> None:
        super().__init__(daemon=True)
        self._address, self._host = address, host
        self.failed: list[str] = []
        self.versions: dict[str, int] = {}
        self.ending = threading.Event()

    def run(self) -> None:
        """Asks until `ending` is set."""
        body = json.dumps({"instances": [{"user": "1"}]})
        headers = {"Content-Type": "application/json", "Host": self._host}
        while not self.ending.wait(0.02):
            connection = http.client.HTTPConnection(*self._address, timeout=10)
            try:
                connection.request("POST", "/v1/models/films:predict", body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 200:
                    version = json.loads(content)["model_version"]
                    self.versions[version] = self.versions.get(version, 0) + 1
                else:
                    self.failed.append(f"{answer.status} {content[:100]!r}")
            except OSError as error:
                self.failed.append(repr(error))
            finally:
                connection.close()


@pytest.fixture
def release(previous_chart: Path, tmp_path: Path) -> Iterator[tuple[Cluster, Path]]:
    """A namespace with a release of the previous chart, and the file of its values."""
    with restricted_namespace("upgrade") as cluster:
        if "rollouts.slipway.dev" not in cluster.kubectl("get", "crd", "-o", "name").stdout:
            pytest.skip("the cluster has no definition of Rollout, which belongs to all its users")
        default = yaml.safe_load(cluster.kubectl("get", "clusterstoragecontainer", "default", "-o", "yaml").stdout)
        chosen = {
            "image": {"registry": REGISTRY},
            "crd": {"install": False},
            "operator": {
                "prometheusUrl": os.environ.get("SLIPWAY_TEST_PROMETHEUS_OF_PODS", "http://prometheus.monitoring:9090")
            },
            "runtime": {"scope": "Namespaced", "name": cluster.namespace},
            "storageContainer": {"create": True, "image": default["spec"]["container"]["image"]},
        }
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump(chosen))
        waiting = ("--namespace", cluster.namespace, "--values", str(values), "--wait", "--timeout", "300s")
        helm("install", "slipway", str(previous_chart), *waiting, timeout=400)
        try:
            yield cluster, values
        finally:
            cluster.kubectl("delete", "rollouts", "--all", "--timeout=60s", check=False)
            helm("uninstall", "slipway", "--namespace", cluster.namespace, check=False)


def rollout(version: str, uri: str, host: str) -> dict[str, Any]:
    step = {"minimum_dwell": "3s", "minimum_samples": 20}
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 3, "absolute": 0.2}}
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "films"},
        "spec": {
            "model": {"name": "films", "version": version, "uri": uri},
            "predictor": {"serviceAccountName": "models"},
            "traffic": {
                "gateway": {"name": "kserve-ingress-gateway", "namespace": "kserve"},
                "hostnames": [host],
            },
            "policy": {
                "steps": [{"weight": 30, "gate": True, "requires": "noHarm", **step}, {"weight": 100, **step}],
                "guardrails": [errors],
            },
        },
    }


def test_an_upgrade_in_the_middle_of_a_rollout_changes_no_weight_and_fails_no_request(
    release: tuple[Cluster, Path], gateway: tuple[str, int], tmp_path: Path
) -> None:
    cluster, values = release
    specification = importlib.util.spec_from_file_location("predictor_conftest", ROOT / "tests/predictor/conftest.py")
    assert specification is not None
    assert specification.loader is not None
    helpers = importlib.util.module_from_spec(specification)
    sys.modules["predictor_conftest"] = helpers
    specification.loader.exec_module(helpers)
    host = f"{cluster.namespace}.example.com"

    def phase() -> str:
        return str(cluster.get("rollout", "films").get("status", {}).get("phase", ""))

    def weights() -> dict[str, int]:
        (route,) = cluster.get("httproutes")["items"]
        references = route["spec"]["rules"][-1]["backendRefs"]
        return {each["name"]: each.get("weight", 1) for each in references}

    with bucket() as own:
        apply(cluster, *store_access())
        uri = own.put(helpers.make_bundle(tmp_path / "films"), "films")
        apply(cluster, rollout("1", uri, host))
        cluster.wait_for("the first version", lambda: phase() in ("Promoted", "Completed"), 240)
        load = Load(gateway, host)
        load.start()
        try:
            apply(cluster, rollout("2", uri, host))
            cluster.wait_for("the gate", lambda: phase() == "AwaitingGate", 240)
            at_the_gate = weights()
            assert sorted(at_the_gate.values()) == [30, 70]
            before = {pod["metadata"]["name"] for pod in operators(cluster)}
            options = ("--namespace", cluster.namespace, "--values", str(values), "--set=operator.interval=4")
            helm("upgrade", "slipway", str(CHART), *options, "--wait", "--timeout", "300s", timeout=400)
            assert not before & {pod["metadata"]["name"] for pod in operators(cluster)}
            assert weights() == at_the_gate
            cluster.kubectl("annotate", "rollout", "films", "command.slipway.dev/1=approve")
            cluster.wait_for("the second version", lambda: phase() in ("Promoted", "Completed"), 240)
        finally:
            load.ending.set()
            load.join(15)
        assert load.failed == []
        assert load.versions.keys() == {"1", "2"}
        assert sum(load.versions.values()) > 200


def operators(cluster: Cluster) -> list[dict[str, Any]]:
    """Returns the operator's pods that are not about to end."""
    found = cluster.get("pods", "-l", "app.kubernetes.io/component=operator")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
