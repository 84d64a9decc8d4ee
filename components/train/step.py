"""Trains a model on a `features` artifact and writes it as a bundle, with its curves beside it.

model.json, weights.safetensors, index.safetensors    the bundle
curves.json                                           {"epochs": [{"epoch": 1, "loss": ...}, ...]}
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.progress import Progress
from slipway.components.train.fitting import CURVES, checkpoint_of, family_of, fit, read_curves
from slipway.components.train.launch import Group, launch
from slipway.components.train.places import Place, on_this_machine
from slipway.components.train.tracking import TrackedRun, track
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import EnvironmentProblemError, SlipwayError, UsageError
from slipway.contracts.project.schema import ModelSpec
from slipway.contracts.project.training import MAXIMUM_PROCESSES, CheckpointSpec
from slipway.models.interface import Measure

__all__ = ["CURVES", "TrainRequest", "TrainResult", "run"]


class TrainRequest(BaseModel):
    """What to train and where it goes.

    `features` and `output` are folders, or `s3://bucket/prefix`. `name` is the model's and the MLflow experiment's.
    `processes` train together on this machine; in a pod of a TrainJob the Trainer's variables say how many.
    `checkpoint` is a folder for the state of this training: killed and run again, it goes on from there. A `location`
    in `checkpoints` stands instead, for many trainings. `project_directory` is where a family of the project's own is
    found. `tracking_uri` is MLflow's; None is the project's own SQLite. `run_id` names the pipeline run. With `tracked`
    false MLflow is told nothing: the trials of a sweep are told by the sweep.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Place
    output: Place
    name: str = "model"
    model: ModelSpec = ModelSpec()
    project_directory: Path = Path()
    tracking_uri: str | None = None
    run_id: str | None = None
    tracked: bool = True
    processes: int = Field(default=1, ge=1, le=MAXIMUM_PROCESSES)
    checkpoint: Path | None = None
    checkpoints: CheckpointSpec = CheckpointSpec()


class TrainResult(BaseModel):
    """The model. `metrics` are its counts and the last values of its curves; `warnings` what did not work out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Place
    fingerprint: str
    family: str
    epochs: int
    parameters: dict[str, Any]
    warnings: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: TrainRequest, progress: Progress, measure: Measure | None = None) -> TrainResult:
    """Trains the model, writes the bundle in one rename, then tells MLflow.

    Args:
        request: What to train.
        progress: Told how far it is, and the values of each epoch.
        measure: How good the model is after an epoch, on data that it is not trained on; for families that can tell.

    Raises:
        UsageError: The family, a parameter or a view is unknown.
        DataError: The data cannot be learnt from.
        ArtifactError: The features are not whole.
        EnvironmentProblemError: A package is missing or the disk is full.
        ServiceError: The object store does not answer, or refuses.
    """
    group = Group.of(request.processes)
    with on_this_machine(request) as local:
        manifest = read_manifest(Path(local.features), kind="features")
        result = _train(local, manifest.fingerprint, group, progress, measure)
    if group.node == 0 and request.checkpoints.location is not None:
        _forget(request, manifest.fingerprint, progress)
    return result.model_copy(update={"output": request.output})


def _train(
    request: TrainRequest, features: str, group: Group, progress: Progress, measure: Measure | None
) -> TrainResult:
    spec, output = request.model, Path(request.output)
    family_of(request, group.size)
    with _written(output, publish=group.node == 0) as partial:
        if group.size == 1:
            fit(request, partial, progress, measure=measure)
        elif measure is None:
            launch(request, partial, group, progress)
        else:
            raise UsageError("an epoch is measured in one process only", where="training.processes")
    if group.node > 0:
        progress.note("the first pod writes the model")
        return TrainResult(output=output, fingerprint="", family=spec.family, epochs=0, parameters={})
    bundle, curves = read_bundle(output, verify=False), read_curves(output)
    digest = bundle_digest(bundle)
    run = TrackedRun(
        experiment=request.name,
        name=request.run_id or digest[:12],
        parameters={
            "family": spec.family,
            "seed": spec.seed,
            "features": ",".join(spec.features),
            **bundle.parameters,
        },
        curves=curves,
        tags={"slipway.model": digest, "slipway.features": features},
    )
    problem = None
    if request.tracked:
        progress.stage("writing curves to MLflow")
        problem = track(run, request.project_directory, request.tracking_uri)
    warnings = () if problem is None else (f"MLflow has no record of this training ({problem}); curves.json has it",)
    for warning in warnings:
        progress.note(f"warning: {warning}")
    last = {name: value for name, value in (curves[-1] if curves else {}).items() if name != "epoch"}
    return TrainResult(
        output=output,
        fingerprint=digest,
        family=spec.family,
        epochs=len(curves),
        parameters=bundle.parameters,
        warnings=warnings,
        metrics={**{key: float(value) for key, value in bundle.counts.model_dump().items()}, **last},
    )


@contextlib.contextmanager
def _written(output: Path, *, publish: bool) -> Iterator[Path]:
    """Gives a folder that becomes `output` in one rename, if it is to be published; a failed block leaves nothing."""
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        if publish:
            with _writing(output):
                # Only one process writes an output: what another left half-written is a dead one's.
                for leftover in output.parent.glob(f".{output.name}.partial-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                partial.mkdir(parents=True)
        yield partial
        if publish:
            with _writing(output):
                if output.exists():
                    shutil.rmtree(output)
                partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentProblemError(
            f"could not write the model ({error.strerror or error})",
            where=str(output),
            remedy="Free space or change the rights of the folder; nothing half-written was left.",
        ) from error


def _forget(request: TrainRequest, features: str, progress: Progress) -> None:
    place = checkpoint_of(request, features)
    try:
        if place is not None:
            place.clear()
    except SlipwayError as error:
        progress.note(f"warning: the checkpoints of this training are left behind ({error.what})")
