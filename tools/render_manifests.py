"""Writes the generated part of manifests/ from the chart: `python tools/render_manifests.py [--check]`. Needs helm.

The chart is the one source of workloads. What kustomize users get of it is plain YAML to read, patch and diff:
base/ is the chart with its defaults, a component is what a value adds. Overlays and patches are written by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "slipway"
MANIFESTS = ROOT / "manifests"
NAMESPACE = "slipway-system"
HEADER = "# Made from the chart by `python tools/render_manifests.py`.\n"
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")

Object = dict[str, Any]


def render(*options: str, namespace: str = NAMESPACE) -> list[Object]:
    """Returns what `helm template` makes of the chart, without its test, its CRD and its Secrets."""
    command = [os.environ.get("HELM", "helm"), "template", "slipway", str(CHART), "--namespace", namespace]
    done = subprocess.run(
        [*command, "--skip-tests", "--set=crd.install=false", *options], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"error: {done.stderr}")
    objects = [found for found in yaml.safe_load_all(done.stdout) if found]
    return [plain(found) for found in objects if found["kind"] != "Secret"]


def plain(found: Object) -> Object:
    """Takes Helm's labels away, wherever they stand."""
    for metadata in _metadata(found):
        labels = metadata.get("labels", {})
        for label in HELM_LABELS:
            labels.pop(label, None)
    return found


def _metadata(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for child in node for found in _metadata(child)]
    if not isinstance(node, dict):
        return []
    own = [node["metadata"]] if isinstance(node.get("metadata"), dict) else []
    return own + [found for child in node.values() for found in _metadata(child)]


def identity(found: Object) -> tuple[str, str, str]:
    """Returns what no two objects share: kind, namespace, name."""
    return found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"]


def additions(base: Sequence[Object], *options: str) -> list[Object]:
    """Returns the objects that some values add."""
    known = {identity(found) for found in base}
    return [found for found in render(*options) if identity(found) not in known]


def part_of(found: Object) -> str:
    """Returns the file of an object: its part, policies apart."""
    if found["kind"] == "NetworkPolicy":
        return "network-policies"
    part: str = found["metadata"]["labels"]["app.kubernetes.io/component"]
    return part


def generated() -> Mapping[Path, str]:
    """Returns every generated file."""
    base = render()
    files: dict[Path, list[Object]] = {}
    for found in base:
        runtime = found["kind"] == "ClusterServingRuntime"
        place = Path("runtime/clusterservingruntime.yaml") if runtime else Path("base") / f"{part_of(found)}.yaml"
        files.setdefault(place, []).append(found)
    monitoring = [f"--set=monitoring.{part}.enabled=true" for part in ("monitors", "rules", "dashboards")]
    files[Path("components/monitoring/monitoring.yaml")] = additions(base, *monitoring)
    files[Path("components/trial/trial.yaml")] = additions(
        base, "--set=trial.redis.enabled=true", "--set=trial.mlflow.enabled=true"
    )
    storage = additions(base, "--set=storageContainer.create=true")
    files[Path("components/restricted-storage/clusterstoragecontainer.yaml")] = storage
    persistence = additions(base, "--set=collector.persistence.enabled=true")
    files[Path("components/persistence/persistentvolumeclaim.yaml")] = persistence
    return {
        MANIFESTS / path: HEADER + yaml.safe_dump_all(objects, sort_keys=False, width=120)
        for path, objects in files.items()
    }


def main() -> int:
    """Returns 1 where --check finds a file out of date."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"error: {path}: out of date. Run: python tools/render_manifests.py", file=sys.stderr)
        return bool(stale)
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
