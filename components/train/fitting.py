"""From a request to a bundle and its curves in a folder: what one process does, alone or together with others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.components.progress import Progress
from slipway.components.train.reading import read_training_data
from slipway.contracts.artifacts import fingerprint_of, read_manifest
from slipway.contracts.errors import UsageError
from slipway.contracts.files import write_json
from slipway.models.checkpoint_store import CheckpointPlace
from slipway.models.families import load_family, save_model
from slipway.models.interface import Measure, Recommender

if TYPE_CHECKING:
    from slipway.components.train.step import TrainRequest

CURVES = "curves.json"


def fit(
    request: TrainRequest,
    target: Path | None,
    progress: Progress,
    *,
    processes: int = 1,
    measure: Measure | None = None,
) -> None:
    """Reads the features, trains, and writes the bundle with its curves.

    Args:
        request: What to train, from a folder of this machine; its output is not touched.
        target: An existing folder for the bundle; None writes nothing, for all processes but the first.
        progress: Told how far it is, and the values of each epoch.
        processes: How many train together, this one among them.
        measure: Passed on to the family.

    Raises:
        UsageError: The family, a parameter or a view is unknown.
        DataError: The data cannot be learnt from.
        ArtifactError: The features are not whole.
        EnvironmentProblemError: A package is missing or the disk is full.
    """
    spec = request.model
    features = Path(request.features)
    manifest = read_manifest(features, kind="features")
    family = family_of(request, processes)
    progress.stage("reading", total=1)
    data = replace(read_training_data(features, spec.features, device=spec.device), measure=measure)
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

    checkpoint = checkpoint_of(request, manifest.fingerprint)
    model = family.fit(data, spec.parameters, seed=spec.seed, on_epoch=on_epoch, checkpoint=checkpoint)
    if target is not None:
        progress.stage("writing the bundle", total=1)
        lineage = {"features": manifest.fingerprint}
        save_model(model, target, family=spec.family, name=request.name, lineage=lineage)
        write_json(target / CURVES, {"epochs": curves})
        progress.advance()


def family_of(request: TrainRequest, processes: int = 1) -> type[Recommender]:
    """Returns the class of the family.

    Args:
        request: What to train.
        processes: How many are to train it.

    Raises:
        UsageError: It is unknown, or cannot be trained by several processes and shall be.
    """
    family = load_family(request.model.family, request.project_directory)
    if processes > 1 and not family.distributed:
        raise UsageError(
            f"{request.model.family} trains in one process, and {processes} were asked for",
            where="training.processes",
            remedy="Set training.processes to 1, or model.family to neural_collaborative_filtering.",
        )
    return family


def checkpoint_of(request: TrainRequest, features: str) -> CheckpointPlace | None:
    """Returns where this training's state goes, None for nowhere.

    Args:
        request: What to train.
        features: Fingerprint of the features.
    """
    spec = request.checkpoints
    if spec.location is None:
        location = None if request.checkpoint is None else str(request.checkpoint)
    else:
        base = spec.location if "://" in spec.location else str(request.project_directory / spec.location)
        # Trainings of one project share the location.
        model = request.model.model_dump(mode="json")
        own = fingerprint_of({"features": features, "model": model})
        location = f"{base.rstrip('/')}/{request.name}-{own[:12]}"
    return None if location is None else CheckpointPlace(location, every=spec.every, keep=spec.keep)


def read_curves(folder: Path) -> list[dict[str, float]]:
    """Returns what was reported after each epoch, as `fit` wrote it."""
    epochs: list[dict[str, float]] = json.loads((folder / CURVES).read_text(encoding="utf-8"))["epochs"]
    return epochs
