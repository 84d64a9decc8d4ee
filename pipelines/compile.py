"""Writes pipelines as IR for Kubeflow Pipelines; the same project gives the same bytes, on any machine."""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slipway.contracts.errors import UsageError
from slipway.contracts.files import canonical_json, sha256_of, write_atomically
from slipway.contracts.project import Project
from slipway.contracts.project.schedules import PipelineName
from slipway.pipelines.kubernetes.settings import BUILDERS, cluster_settings

# Readers that follow YAML 1.1 take these, unquoted, for booleans; the SDK does not quote them.
BOOLEAN_WORDS = frozenset({"n", "y", "yes", "no", "on", "off", "true", "false"})
VERSION_DIGITS = 12


@dataclass(frozen=True)
class CompiledPipeline:
    """A pipeline in its intermediate representation.

    `text` is the IR as YAML: the pipeline's specification, and the platform's in a second document. `version` is the
    name followed by the hash of the specifications. `images` maps each step to its image.
    """

    pipeline: PipelineName
    name: str
    version: str
    text: str
    specification: dict[str, Any]
    platform: dict[str, Any]
    images: dict[str, str]


def compile_pipeline(
    project: Project, pipeline: PipelineName = "training", *, image: str | None = None
) -> CompiledPipeline:
    """Compiles a pipeline of a project for a cluster.

    Args:
        project: The project file.
        pipeline: Which one.
        image: One image for all steps, in place of those that the project file names.

    Raises:
        UsageError: The project has no such pipeline, a source cannot be read by a pod, or the result would not be
            read back as it is meant.
    """
    from kfp.compiler import Compiler

    settings = cluster_settings(project, pipeline)
    if image is not None:
        pods = {step: pod.model_copy(update={"image": image}) for step, pod in settings.pods.items()}
        settings = settings.model_copy(update={"pods": pods})
    module, _, function = BUILDERS[pipeline].partition(":")
    built = getattr(importlib.import_module(module), function)(settings.model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        Compiler().compile(built, str(file))
        text = file.read_text(encoding="utf-8")
    documents = list(yaml.safe_load_all(text))
    specification, platform = documents[0], documents[1] if len(documents) > 1 else {}
    _check(specification, text, project)
    digest = sha256_of(canonical_json([specification, platform]))[:VERSION_DIGITS]
    return CompiledPipeline(
        pipeline=pipeline,
        name=settings.name,
        version=f"{settings.name}-{digest}",
        text=text,
        specification=specification,
        platform=platform,
        images={step: pod.image for step, pod in sorted(settings.pods.items())},
    )


def compile_training(project: Project, target: Path, *, image: str | None = None) -> CompiledPipeline:
    """Compiles the training pipeline of a project and writes its IR.

    Args:
        project: The project file.
        target: The YAML file to write.
        image: One image for all steps.

    Raises:
        UsageError: As `compile_pipeline`.
        EnvironmentProblemError: The target cannot be written.
    """
    compiled = compile_pipeline(project, image=image)
    write_atomically(target, compiled.text)
    return compiled


def _check(specification: dict[str, Any], text: str, project: Project) -> None:
    booleans = sorted({name for name in _parameter_names(specification) if name.lower() in BOOLEAN_WORDS})
    if booleans:
        raise UsageError(
            f"a parameter is named {booleans[0]!r}, which kubectl reads as a boolean",
            where=project.name,
            remedy="Give the parameter of your component a longer name.",
        )
    for place in (str(project.directory), str(Path.home())):
        # A home such as / or /root is a part of many a path: only whole paths below it count.
        if len(place) > 1 and re.search(rf"(?<![\w.-]){re.escape(place)}/", text):
            raise UsageError(
                f"the pipeline would hold a path of this machine: {place}",
                where=project.name,
                remedy="Name files relative to the project file, or by s3://.",
            )
    if "pip install" in text:
        raise UsageError(
            "a component would install packages when it runs",
            where=project.name,
            remedy="Put the packages into its image, and write install_kfp_package=False.",
        )


def _parameter_names(specification: Any) -> Iterator[str]:
    """Yields the names under every `parameters` of the specification."""
    if isinstance(specification, dict):
        for key, value in specification.items():
            if key == "parameters" and isinstance(value, dict):
                yield from value
            yield from _parameter_names(value)
    elif isinstance(specification, list):
        for value in specification:
            yield from _parameter_names(value)
