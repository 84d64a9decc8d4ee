"""Tests against a real cluster: any that KUBECONFIG names. What it lacks is skipped, with the reason."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs
import pytest
from cluster_namespace import Cluster
from cluster_services import address_for_pods, mlflow_server
from container_engine import images
from object_store_bucket import own_bucket

NAMESPACE = os.environ.get("KF_PIPELINES_NAMESPACE", "kubeflow")
PROJECT_NAME = "tiny-test"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}


@pytest.fixture(scope="session", autouse=True)
def reachable_cluster() -> None:
    """Skips where there is no cluster."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    try:
        Cluster("default").kubectl("get", "--raw", "/readyz")
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the cluster of {os.environ['KUBECONFIG']} does not answer: {str(error)[:200]}")


@pytest.fixture(scope="session")
def pipelines_resources() -> None:
    """Skips where Kubeflow Pipelines' custom resources are not installed."""
    known = Cluster("default").kubectl("api-resources", "--api-group=pipelines.kubeflow.org", "-o", "name").stdout
    if "pipelineversions" not in known:
        pytest.skip("the cluster has no custom resources of Kubeflow Pipelines (Kubernetes-native mode)")


@contextmanager
def own_namespace() -> Iterator[Cluster]:
    """Makes a namespace that admits pods of the profile `restricted` only."""
    own = Cluster(f"slipway-test-{secrets.token_hex(4)}")
    labels = "\n".join(f"    {name}: {value}" for name, value in RESTRICTED.items())
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {own.namespace}\n  labels:\n{labels}\n"
    own.kubectl("apply", "-f", "-", text=namespace)
    own.kubectl("create", "serviceaccount", "runner")
    try:
        yield own
    finally:
        own.kubectl("delete", "namespace", own.namespace, "--wait=false", check=False)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A namespace of the test's own."""
    with own_namespace() as own:
        yield own


@pytest.fixture(scope="module")
def module_cluster() -> Iterator[Cluster]:
    """A namespace of the module's own."""
    with own_namespace() as own:
        yield own


@pytest.fixture
def bucket() -> Iterator[tuple[str, pafs.FileSystem]]:
    """A bucket of the test's own."""
    with own_bucket() as own:
        yield own


@pytest.fixture(scope="module")
def module_bucket() -> Iterator[tuple[str, pafs.FileSystem]]:
    """A bucket of the module's own."""
    with own_bucket() as own:
        yield own


@pytest.fixture(scope="session")
def built_images() -> None:
    """Skips where no images are built; that the cluster has them too is up to whoever set it up."""
    if not images():
        pytest.skip("no image is built: make images")


@pytest.fixture(scope="session")
def pods_address() -> str:
    """An address of this machine that pods reach."""
    address = address_for_pods(Cluster("default"))
    if address is None:
        pytest.skip("pods do not reach this machine, as far as can be told: set CLUSTER_TEST_ADDRESS")
    return address


@pytest.fixture(scope="module")
def pods_mlflow(pods_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server that pods reach."""
    with mlflow_server(pods_address, tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def installation(cluster: Cluster, pipelines_resources: None) -> Iterator[Cluster]:
    """Where versions of pipelines can be made: the namespace of Kubeflow Pipelines if it runs, else any.

    Its webhook looks for a version's pipeline in its own namespace only.
    """
    hooks = cluster.kubectl("get", "validatingwebhookconfigurations", "-o", "name").stdout
    own = Cluster(NAMESPACE) if "pipelineversions.pipelines.kubeflow.org" in hooks else cluster
    try:
        yield own
    finally:
        kinds = "pipelineversions,pipelines,cronjobs,jobs"
        own.kubectl("delete", kinds, "-l", f"app.kubernetes.io/part-of={PROJECT_NAME}", "--wait=false", check=False)
