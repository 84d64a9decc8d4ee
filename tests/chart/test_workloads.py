"""Chart and kustomize give the same workloads, and all of them fit pod security "restricted"."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rendered import CHART, MANIFESTS, OVERLAYS, Object, chart, kustomize, named, objects, overlay, pod_specs, tool

MONITORING = [f"--set=monitoring.{part}.enabled=true" for part in ("monitors", "rules", "dashboards")]
SAME_AS = {
    "local": [
        "--set=operator.replicas=1",
        "--set=storageContainer.create=true",
        "--set=trial.redis.enabled=true",
        "--set=trial.mlflow.enabled=true",
    ],
    "staging": ["--set=storageContainer.create=true", *MONITORING],
    "production": [
        "--set=storageContainer.create=true",
        *MONITORING,
        "--set=collector.persistence.enabled=true",
        "--set=operator.resources.limits.memory=1Gi",
    ],
}
ONLY_IN_OVERLAYS = {"namespace", "notebook", "gateway"}
FULL = f"--values={CHART / 'ci' / 'full-values.yaml'}"


def compared(found: list[Object]) -> dict[str, Any]:
    """Returns the objects without what one of the two tools alone says: its labels and the namespace."""
    plain = tool("render_manifests").plain
    result = {}
    for each in found:
        labels = each["metadata"].get("labels", {})
        own = each["kind"] == "Namespace" or labels.get("app.kubernetes.io/component") in ONLY_IN_OVERLAYS
        if own or each["kind"] in ("Secret", "CustomResourceDefinition"):
            continue
        plain(each)["metadata"].pop("namespace", None)
        each["metadata"].pop("annotations", None)
        result[named(each)] = each
    return result


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_the_chart_with_values(name: str) -> None:
    by_helm, by_kustomize = compared(chart("--skip-tests", *SAME_AS[name])), compared(overlay(name))
    assert by_kustomize.keys() == by_helm.keys()
    for object_name, found in by_helm.items():
        assert by_kustomize[object_name] == found, object_name


def test_the_manifests_are_those_that_the_chart_renders() -> None:
    chart()  # skips where helm is missing
    for path, text in tool("render_manifests").generated().items():
        assert path.read_text() == text, f"{path} is out of date: python tools/render_manifests.py"


def gpu_runtime(folder: Path) -> Object:
    relative = os.path.relpath(MANIFESTS, folder)
    (folder / "kustomization.yaml").write_text(
        f"resources: [{relative}/runtime]\ncomponents: [{relative}/components/gpu]\n"
    )
    (runtime,) = kustomize(folder)
    return runtime


def test_the_gpu_component_is_the_charts_gpu(tmp_path: Path) -> None:
    options = ["--set=runtime.gpu.count=1", "--set=runtime.tolerations[0].key=nvidia.com/gpu"]
    options += ["--set=runtime.tolerations[0].operator=Exists", "--set=runtime.tolerations[0].effect=NoSchedule"]
    (by_helm,) = [each for each in chart(*options) if each["kind"] == "ClusterServingRuntime"]
    by_kustomize = gpu_runtime(tmp_path)
    assert by_kustomize["spec"] == by_helm["spec"]
    assert by_kustomize["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("source", ["default", "full", *OVERLAYS])
def test_every_pod_fits_pod_security_restricted(source: str) -> None:
    found = overlay(source) if source in OVERLAYS else chart(*([FULL] if source == "full" else []))
    specs = dict(pod_specs(found))
    assert len(specs) >= 3
    for name, spec in specs.items():
        pod = spec.get("securityContext", {})
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            own = {**pod, **container["securityContext"]}
            assert own["runAsNonRoot"] is True, name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own["seccompProfile"]["type"] == "RuntimeDefault", name
            assert "memory" in container["resources"]["limits"], name
            # A notebook installs what its user wants.
            assert own.get("readOnlyRootFilesystem") is True or "notebook" in name, name
        assert not any("hostPath" in volume for volume in spec.get("volumes", ())), name


def test_the_definition_of_rollout_goes_with_the_chart_and_stays_after_it() -> None:
    crds = [each for each in chart() if each["kind"] == "CustomResourceDefinition"]
    (shipped,) = crds
    assert shipped["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    (source,) = objects((MANIFESTS / "crd" / "rollouts.yaml").read_text())
    assert shipped["spec"] == source["spec"]
    assert not [each for each in chart("--set=crd.install=false") if each["kind"] == "CustomResourceDefinition"]
