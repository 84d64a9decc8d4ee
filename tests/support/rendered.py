"""What helm and kustomize make of the chart and the manifests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "slipway"
MANIFESTS = ROOT / "manifests"
NAMESPACE = "slipway-system"
OVERLAYS = ("local", "staging", "production")

Object = dict[str, Any]


def helm_program() -> str:
    """Returns helm, or skips the test where there is none."""
    found = shutil.which(os.environ.get("HELM", "helm"))
    if found is None:
        pytest.skip("helm is not installed; HELM may name it")
    return found


def helm(*arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs helm; fails the test if it fails."""
    done = subprocess.run([helm_program(), *arguments], capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"helm {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done


def chart(*options: str, namespace: str = NAMESPACE) -> list[Object]:
    """Returns the objects that `helm template` makes."""
    return objects(helm("template", "slipway", str(CHART), "--namespace", namespace, *options).stdout)


def overlay(name: str) -> list[Object]:
    """Returns the objects of an overlay; skips where there is no kubectl."""
    return kustomize(MANIFESTS / "overlays" / name)


def kustomize(folder: Path) -> list[Object]:
    """Returns the objects of a kustomization."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def objects(text: str) -> list[Object]:
    """Returns the objects of a stream of YAML."""
    return [found for found in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if found]


def named(found: Object) -> str:
    """Returns kind and name."""
    return f"{found['kind']}/{found['metadata']['name']}"


def pod_specs(found: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Yields the pod specification of everything that makes pods."""
    for each in found:
        if each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield named(each), each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod" or each["kind"].endswith("ServingRuntime"):
            yield named(each), each["spec"]
        elif each["kind"] == "ClusterStorageContainer":
            yield named(each), {"containers": [each["spec"]["container"]]}


def tool(name: str) -> ModuleType:
    """Returns a program of tools/ as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)

    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module
