"""A real API server takes every object of the chart and of every overlay, and the operator may do its part only."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
import yaml
from cluster_namespace import Cluster
from rendered import CHART, MANIFESTS, NAMESPACE, OVERLAYS, Object, chart, kustomize, named, overlay
from serving_namespace import restricted_namespace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FULL = f"--values={CHART / 'ci' / 'full-values.yaml'}"
OF_THE_CLUSTER = {"ClusterRole", "ClusterRoleBinding", "ClusterServingRuntime", "ClusterStorageContainer"}
SOURCES = ("default", "full", "all-namespaces", *OVERLAYS)


def rendered(source: str) -> list[Object]:
    if source in OVERLAYS:
        return overlay(source)
    options = {"default": [], "full": [FULL], "all-namespaces": ["--set=operator.allNamespaces=true"]}[source]
    return chart("--skip-tests", *options)


def moved(found: list[Object], namespace: str) -> list[Object]:
    """Returns the objects as they would be in another namespace, beside an installation that may be there."""
    text = yaml.safe_dump_all(found).replace(NAMESPACE, namespace)
    result = []
    for each in yaml.safe_load_all(text):
        if each["kind"] in ("Namespace", "CustomResourceDefinition"):
            continue
        if each["kind"] in ("ClusterServingRuntime", "ClusterStorageContainer"):
            each["metadata"]["name"] = namespace
        if each["kind"] == "ClusterServingRuntime":
            each["spec"]["supportedModelFormats"][0]["priority"] = secrets.randbelow(2**30) + 2
        if each["kind"] not in OF_THE_CLUSTER:
            each["metadata"].setdefault("namespace", namespace)
        result.append(each)
    return result


@pytest.fixture
def known_kinds() -> set[str]:
    """The kinds that the cluster knows."""
    lines = Cluster("default").kubectl("api-resources", "--no-headers").stdout.splitlines()
    return {line.split()[-1] for line in lines}


@pytest.fixture
def namespace() -> Iterator[Cluster]:
    with restricted_namespace("objects") as cluster:
        try:
            yield cluster
        finally:
            for kind in ("clusterservingruntime", "clusterstoragecontainer"):
                cluster.kubectl("delete", kind, cluster.namespace, "--ignore-not-found")
            for kind in ("clusterrole", "clusterrolebinding"):
                cluster.kubectl("delete", kind, f"slipway-operator-{cluster.namespace}", "--ignore-not-found")


@pytest.mark.parametrize("source", SOURCES)
def test_every_object_passes_a_dry_run_and_is_applied(source: str, namespace: Cluster, known_kinds: set[str]) -> None:
    found = moved(rendered(source), namespace.namespace)
    unknown = {each["kind"] for each in found} - known_kinds
    assert unknown <= {"FeatureStore"}, f"the cluster has no {unknown}"
    taken = [each for each in found if each["kind"] not in unknown]
    text = yaml.safe_dump_all(taken)
    dry = namespace.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=text)
    applied = namespace.kubectl("apply", "--server-side", "-f", "-", text=text)
    # The namespace warns of pods that its profile would refuse.
    assert "would violate PodSecurity" not in dry.stderr + applied.stderr
    assert len(applied.stdout.splitlines()) == len(taken)
    again = namespace.kubectl("diff", "--server-side", "-f", "-", text=text, check=False)
    assert again.returncode == 0, again.stdout


def test_the_definition_of_rollout_is_taken(namespace: Cluster) -> None:
    text = yaml.safe_dump_all(kustomize(MANIFESTS / "crd"))
    options = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    assert "rollouts.slipway.dev" in namespace.kubectl(*options, text=text).stdout


def test_a_component_for_gpus_is_taken(namespace: Cluster) -> None:
    runtimes = [each for each in chart("--set=runtime.gpu.count=1") if each["kind"] == "ClusterServingRuntime"]
    text = yaml.safe_dump_all(moved(runtimes, namespace.namespace))
    assert "serverside-applied" in namespace.kubectl("apply", "--server-side", "-f", "-", text=text).stdout


MAY = [
    ("list", "rollouts.slipway.dev"),
    ("watch", "rollouts.slipway.dev"),
    ("patch", "rollouts.slipway.dev/status"),
    ("create", "inferenceservices.serving.kserve.io"),
    ("delete", "inferenceservices.serving.kserve.io"),
    ("patch", "httproutes.gateway.networking.k8s.io"),
    ("list", "pods"),
    ("create", "events"),
]
MAY_NOT = [
    ("get", "secrets"),
    ("list", "configmaps"),
    ("delete", "rollouts.slipway.dev"),
    ("create", "rollouts.slipway.dev"),
    ("delete", "pods"),
    ("create", "pods"),
    ("patch", "deployments.apps"),
    ("create", "roles.rbac.authorization.k8s.io"),
    ("update", "inferenceservices.serving.kserve.io/status"),
    ("patch", "gateways.gateway.networking.k8s.io"),
    ("delete", "leases.coordination.k8s.io"),
]


def test_the_operator_may_do_its_part_and_nothing_else(namespace: Cluster) -> None:
    account = f"system:serviceaccount:{namespace.namespace}:slipway-operator"
    rights = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    found = [each for each in moved(chart("--skip-tests"), namespace.namespace) if each["kind"] in rights]
    namespace.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(found))
    assert {named(each) for each in found} >= {"Role/slipway-operator", "Role/slipway-operator-lease"}

    def allowed(verb: str, resource: str, where: str) -> bool:
        resource, _, subresource = resource.partition("/")
        kind, _, group = resource.partition(".")
        attributes = {"verb": verb, "group": group, "resource": kind, "subresource": subresource, "namespace": where}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": account, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
        }
        answer = namespace.kubectl("create", "-f", "-", "-o", "json", text=json.dumps(review))
        return bool(json.loads(answer.stdout)["status"]["allowed"])

    here = namespace.namespace
    namespace.wait_for("the rights", lambda: allowed("list", "rollouts.slipway.dev", here))
    assert [each for each in MAY if not allowed(*each, here)] == []
    assert [each for each in MAY_NOT if allowed(*each, here)] == []
    assert [each for each in MAY if allowed(*each, "default")] == []
    assert allowed("get", "clusterservingruntimes.serving.kserve.io", "")
    assert not allowed("patch", "clusterservingruntimes.serving.kserve.io", "")


def test_what_kustomize_applies_gets_ready(namespace: Cluster) -> None:
    key = "5a" * 32
    namespace.kubectl("create", "secret", "generic", "slipway-predictor", f"--from-literal=signing-key={key}")
    found = moved(overlay("staging"), namespace.namespace)
    namespace.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(found))

    def ready() -> bool:
        parts = [namespace.get("deployment", f"slipway-{part}") for part in ("operator", "collector")]
        return all(each["status"].get("readyReplicas") == each["spec"]["replicas"] for each in parts)

    namespace.wait_for("operator and collector", ready, 240)
    lease = namespace.wait_for(
        "a leader", lambda: namespace.kubectl("get", "lease", "slipway-operator", "-o", "name", check=False).stdout, 60
    )
    assert lease
