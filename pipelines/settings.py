"""From a project file to what each step of the training pipeline is told."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from slipway.components.registry_state import KnownVersion
from slipway.contracts.artifacts import fingerprint_of
from slipway.contracts.durations import format_duration
from slipway.contracts.project import Project
from slipway.pipelines.fingerprints import code_fingerprint, environment_fingerprint, sources_fingerprint

STEPS = ("validate", "featurize", "train", "evaluate", "register")

OUTPUTS = {
    "validate": "dataset",
    "featurize": "features",
    "train": "model",
    "evaluate": "evaluation",
    "register": "registration",
}
"""The artifact that each step makes."""

INPUTS = {
    "validate": (),
    "featurize": ("dataset",),
    "train": ("features",),
    "evaluate": ("dataset", "features", "model"),
    "register": ("dataset", "features", "model", "evaluation"),
}
"""The artifacts that each step reads."""

MODULES = {"batch_predict": "slipway.components.batch_predict.artifact"}
"""The module of a step whose name does not say it."""


class StepSettings(BaseModel):
    """What one step is told.

    `config` decides the outcome; `place` says where things are on this plane; both are fields of the step's request.
    The fingerprints stand for what else decides the outcome.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str
    place: str = "{}"
    data_fingerprint: str = ""
    code_fingerprint: str = ""
    environment_fingerprint: str = ""
    timeout: str = "1h"
    retries: int = 1
    retry_backoff: str = "10s"
    maximum_backoff: str = "30m"


def training_settings(
    project: Project,
    *,
    champion: KnownVersion | None = None,
    memory: Path | None = None,
    folder: str | None = None,
) -> dict[str, StepSettings]:
    """Returns the settings of each step of the training pipeline.

    Args:
        project: The project file.
        champion: The version that now serves, with which a new one is compared.
        memory: Where hashes of source files are remembered between runs.
        folder: The project's folder where the steps run; by default they run here, where the project file is. Elsewhere
            no path, no library and no source of this machine means anything, and none is looked at.
    """
    here = folder is None
    base = str(project.directory) if folder is None else folder
    configs: dict[str, dict[str, Any]] = {step: {} for step in STEPS}
    places: dict[str, dict[str, Any]] = {step: {} for step in STEPS}
    data: dict[str, str] = {}
    dump = project.model_dump(mode="json", by_alias=True)

    configs["validate"] = {"data": dump["data"]}
    places["validate"] = {"base": base}
    sources = [spec.source for spec in (project.data.interactions, project.data.items, project.data.users) if spec]
    data["validate"] = sources_fingerprint(sources, project.directory, memory) if here else ""

    configs["featurize"] = {name: dump[name] for name in ("split", "features")}
    places["featurize"] = {
        "project_directory": base,
        "project": project.name,
        "feast_repository": str(project.state / "feast") if here and _feast_wanted() else None,
    }

    configs["train"] = {"name": project.name, "model": dump["model"]}
    if project.training.processes > 1:
        configs["train"]["processes"] = project.training.processes
    places["train"] = {
        "project_directory": base,
        "tracking_uri": project.tracking.uri,
        "checkpoints": dump["training"]["checkpoints"],
    }

    configs["evaluate"] = {name: dump[name] for name in ("evaluation", "gates", "split")}
    places["evaluate"] = {"project_directory": base, "champion": str(champion.bundle_dir) if champion else None}
    candidates = [] if project.evaluation.candidates == "all" else [project.evaluation.candidates]
    data["evaluate"] = fingerprint_of(
        {
            "candidates": sources_fingerprint(candidates, project.directory) if here else candidates,
            "champion": champion.sha256 if champion else None,
        }
    )

    configs["register"] = {"name": project.name, "sources": sources}
    places["register"] = {"project_directory": base, "tracking_uri": project.tracking.uri}
    if not here and project.kubernetes.bundle_root is not None:
        places["register"]["bundles"] = project.kubernetes.bundle_root

    environment = environment_fingerprint() if here else ""
    return {
        step: step_settings(project, step, configs[step], places[step], data.get(step, ""), environment)
        for step in STEPS
    }


def step_settings(
    project: Project,
    step: str,
    config: Mapping[str, Any],
    place: Mapping[str, Any],
    data: str = "",
    environment: str = "",
) -> StepSettings:
    """Returns what one step is told; config and place are fields of its request."""
    spec = project.step(step)
    own = project.directory if _uses_own_modules(project) else None
    return StepSettings(
        config=json.dumps(config, sort_keys=True),
        place=json.dumps(place, sort_keys=True),
        data_fingerprint=data,
        code_fingerprint=code_fingerprint(MODULES.get(step, f"slipway.components.{step}.step"), own),
        environment_fingerprint=environment,
        timeout=format_duration(spec.timeout),
        retries=spec.retries,
        retry_backoff=format_duration(spec.retry_backoff),
    )


def _feast_wanted() -> bool:
    # Importing Feast takes longer than most featurizing; SLIPWAY_FEAST=0 leaves it to `slipway features apply`.
    return os.environ.get("SLIPWAY_FEAST", "1") != "0" and find_spec("feast") is not None


def _uses_own_modules(project: Project) -> bool:
    return any(":" in name for name in (project.model.family, *project.features.views))
