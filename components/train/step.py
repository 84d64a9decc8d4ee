"""Trains a model on a `features` artifact and writes it as a bundle, with its curves beside it.

model.json, weights.safetensors, index.safetensors    the bundle
curves.json                                           {"epochs": [{"epoch": 1, "loss": ...}, ...]}
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.progress import Progress
from slipway.components.train.reading import read_training_data
from slipway.components.train.tracking import TrackedRun, track
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.bundle import bundle_digest
from slipway.contracts.errors import EnvironmentProblemError
from slipway.contracts.files import write_json
from slipway.contracts.project.schema import ModelSpec
from slipway.models.families import load_family, save_model

CURVES = "curves.json"


class TrainRequest(BaseModel):
    """What to train and where it goes.

    `name` is the model's and the MLflow experiment's. `checkpoint` is a folder for the state after each epoch: a killed
    training that is run again goes on from there. `project_directory` is where a family of the project's own is found.
    `tracking_uri` is MLflow's; None is the project's own SQLite. `run_id` names the pipeline run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Path
    output: Path
    name: str = "model"
    model: ModelSpec = ModelSpec()
    project_directory: Path = Path()
    tracking_uri: str | None = None
    run_id: str | None = None
    checkpoint: Path | None = None


class TrainResult(BaseModel):
    """The model. `metrics` are its counts and the last values of its curves; `warnings` what did not work out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    family: str
    epochs: int
    parameters: dict[str, Any]
    warnings: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: TrainRequest, progress: Progress) -> TrainResult:
    """Trains the model, writes the bundle in one rename, then tells MLflow.

    Raises:
        UsageError: The family, a parameter or a view is unknown.
        DataError: The data cannot be learnt from.
        ArtifactError: The features are not whole.
        EnvironmentProblemError: A package is missing or the disk is full.
    """
    spec = request.model
    manifest = read_manifest(request.features, kind="features")
    family = load_family(spec.family, request.project_directory)
    progress.stage("reading", total=1)
    data = read_training_data(request.features, spec.features, device=spec.device)
    progress.advance()

    curves: list[dict[str, float]] = []
    # A family of the project's own need not have epochs: then the length of the stage is unknown.
    epochs = spec.parameters.get("epochs", family.default_epochs)
    progress.stage("training", total=epochs if isinstance(epochs, int) else None)

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        curves.append({"epoch": float(epoch), **values})
        progress.update(epoch)
        for name, value in values.items():
            progress.metric(name, value)

    model = family.fit(data, spec.parameters, seed=spec.seed, on_epoch=on_epoch, checkpoint=request.checkpoint)

    progress.stage("writing the bundle", total=1)
    partial = request.output.with_name(f".{request.output.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        bundle = save_model(
            model, partial, family=spec.family, name=request.name, lineage={"features": manifest.fingerprint}
        )
        write_json(partial / CURVES, {"epochs": curves})
        if request.output.exists():
            shutil.rmtree(request.output)
        partial.rename(request.output)
    except OSError as error:
        raise EnvironmentProblemError(
            f"could not write the model ({error.strerror or error})",
            where=str(request.output),
            remedy="Free space or change the rights of the folder; nothing half-written was left.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress.advance()

    digest = bundle_digest(bundle)
    progress.stage("writing curves to MLflow")
    problem = track(
        TrackedRun(
            experiment=request.name,
            name=request.run_id or digest[:12],
            parameters={
                "family": spec.family,
                "seed": spec.seed,
                "features": ",".join(spec.features),
                **model.parameters,
            },
            curves=curves,
            tags={"slipway.model": digest, "slipway.features": manifest.fingerprint},
        ),
        request.project_directory,
        request.tracking_uri,
    )
    warnings = () if problem is None else (f"MLflow has no record of this training ({problem}); curves.json has it",)
    for warning in warnings:
        progress.note(f"warning: {warning}")
    last = {name: value for name, value in (curves[-1] if curves else {}).items() if name != "epoch"}
    return TrainResult(
        output=request.output,
        fingerprint=digest,
        family=spec.family,
        epochs=len(curves),
        parameters=model.parameters,
        warnings=warnings,
        metrics={**{key: float(value) for key, value in bundle.counts.model_dump().items()}, **last},
    )
