"""Writes the training pipeline as IR YAML; the same project gives the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from slipway.contracts.files import write_atomically
from slipway.contracts.project import Project
from slipway.pipelines.settings import training_settings


def compile_training(project: Project, target: Path, *, image: str | None = None) -> None:
    """Compiles the training pipeline of a project.

    Args:
        project: The project file.
        target: The YAML file to write.
        image: Container image of the steps; the default is the one of this version.

    Raises:
        EnvironmentProblemError: The target cannot be written.
    """
    from kfp.compiler import Compiler

    from slipway.pipelines.training import build_training

    settings = training_settings(project, here=False)
    pipeline = build_training(
        {
            "name": project.name,
            "image": image,
            "steps": {step: content.model_dump(mode="json") for step, content in settings.items()},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        Compiler().compile(pipeline, str(file))
        write_atomically(target, file.read_bytes())
