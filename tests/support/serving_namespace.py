"""Model serving in a namespace of a real cluster: runtime, object store, bundles, and ways to ask."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import pytest
import yaml
from cluster_namespace import Cluster
from object_store_bucket import own_bucket
from rendered import MANIFESTS

REGISTRY = os.environ.get("SLIPWAY_TEST_REGISTRY", "ghcr.io/slipway")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    """Applies objects in the namespace, server-side."""
    cluster.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(objects))


@contextlib.contextmanager
def restricted_namespace(name: str) -> Iterator[Cluster]:
    """A namespace that admits pods of the profile `restricted` only; deleted afterwards."""
    cluster = Cluster(f"chart-{name}-{secrets.token_hex(3)}")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace, "labels": RESTRICTED}}
    apply(cluster, namespace)
    try:
        yield cluster
    finally:
        cluster.kubectl("delete", "inferenceservices", "--all", "--wait=false", check=False)
        cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false", check=False)


@contextlib.contextmanager
def restricted_storage(cluster: Cluster) -> Iterator[str]:
    """A storage initializer that fits `restricted`, made of the cluster's own; yields its name."""
    path = MANIFESTS / "components" / "restricted-storage" / "clusterstoragecontainer.yaml"
    container = yaml.safe_load(path.read_text())
    known = cluster.get("clusterstoragecontainers")["items"]
    own = next((each for each in known if each["metadata"]["name"] == "default"), None)
    if own is None:
        pytest.skip("the cluster has no ClusterStorageContainer `default`")
    container["metadata"] = {"name": cluster.namespace}
    container["spec"]["container"]["image"] = own["spec"]["container"]["image"]
    apply(cluster, container)
    try:
        yield cluster.namespace
    finally:
        cluster.kubectl("delete", "clusterstoragecontainer", cluster.namespace, check=False)


def runtime(storage: str) -> dict[str, Any]:
    """Returns the runtime for one namespace, as `runtime.scope=Namespaced` makes it."""
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / "runtime" / "clusterservingruntime.yaml").read_text())
    found["kind"] = "ServingRuntime"
    found["spec"]["annotations"]["internal.serving.kserve.io/storage-container-name"] = storage
    container = found["spec"]["containers"][0]
    container["image"] = container["image"].replace("ghcr.io/slipway", REGISTRY)
    return found


class Bucket:
    """A bucket of the test's own in the object store that AWS_ENDPOINT_URL names."""

    def __init__(self, store: pafs.FileSystem, name: str) -> None:
        self._store = store
        self.name = name

    def put(self, folder: Path, key: str) -> str:
        """Uploads the files of a folder; returns their URI."""
        for path in sorted(folder.iterdir()):
            with self._store.open_output_stream(f"{self.name}/{key}/{path.name}") as output:
                output.write(path.read_bytes())
        return f"s3://{self.name}/{key}"


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """A bucket; skips where no object store is named."""
    with own_bucket() as (name, store):
        yield Bucket(store, name)


def store_access() -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the Secret and the ServiceAccount `models` with which KServe fetches models."""
    endpoint = os.environ.get("SLIPWAY_TEST_S3_OF_PODS") or urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc
    annotations = {"s3-endpoint": endpoint, "s3-usehttps": "0", "s3-region": "us-east-1"}
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3", "annotations": {f"serving.kserve.io/{k}": v for k, v in annotations.items()}},
        "stringData": {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
    }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "models"},
        "secrets": [{"name": "s3"}],
    }
    return secret, account


def inference_service(name: str, uri: str, *, version: str, replicas: int = 1) -> dict[str, Any]:
    """Returns an InferenceService that leaves the choice of the runtime to the model format."""
    model = {"modelFormat": {"name": "slipway"}, "storageUri": uri, "args": ["--model=films", f"--version={version}"]}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "labels": {"networking.kserve.io/visibility": "cluster-local"},
            "annotations": {"serving.kserve.io/autoscalerClass": "none"},
        },
        "spec": {"predictor": {"serviceAccountName": "models", "minReplicas": replicas, "model": model}},
    }


def is_ready(cluster: Cluster, name: str) -> bool:
    """Says whether an InferenceService is ready."""
    conditions = cluster.get("inferenceservice", name).get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def pods_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Returns the pods of an InferenceService."""
    found: list[dict[str, Any]] = cluster.get("pods", "-l", f"serving.kserve.io/inferenceservice={name}")["items"]
    return found


@contextlib.contextmanager
def forwarded(cluster: Cluster, what: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to a port of a pod or service."""
    process = subprocess.Popen(
        ["kubectl", "--namespace", cluster.namespace, "port-forward", what, f":{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found is not None, line
        yield int(found.group(1))
    finally:
        process.terminate()
        process.wait(10)


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Returns status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def predict(port: int, *users: str) -> Any:
    """Returns the predictions for some users."""
    deadline = time.monotonic() + 20
    while True:
        status, content = ask(port, "POST", "/v1/models/films:predict", {"instances": [{"user": u} for u in users]})
        if status == 200 or time.monotonic() > deadline:
            assert status == 200, content
            return json.loads(content)["predictions"]
