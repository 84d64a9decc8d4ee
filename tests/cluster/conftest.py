"""Tests against a real cluster: any that KUBECONFIG names. What it lacks is skipped, with the reason."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_namespace import Cluster

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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A namespace of the test's own that admits pods of the profile `restricted` only."""
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
