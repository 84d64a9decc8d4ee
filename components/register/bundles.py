"""From a trained model to the bundle that is registered: metrics and lineage inside, features and card beside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.bundle import BundleManifest, bundle_digest, copy_bundle, read_bundle
from slipway.contracts.errors import BundleError, EnvironmentProblemError
from slipway.contracts.files import canonical_json, write_atomically

BUNDLES = Path(".slipway") / "bundles"
CARD = "card.md"
FEATURES = "features"
EVALUATION = "evaluation"
EVALUATION_FILES = ("metrics.json", "gates.json", "report.md")
PROTOCOL_FIELDS = ("ranking", "candidates", "items_ranked", "seen_items", "held_out", "relevant", "k", "users")


def metrics_for_bundle(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what model.json says of the model's quality.

    Only the model's own numbers: what it was compared with changes from run to run, and the same model must stay the
    same bundle.
    """
    own = {
        name: {key: entry[key] for key in ("value", "low", "high", "users") if entry.get(key) is not None}
        for name, entry in evaluation["metrics"].items()
    }
    return own | {"protocol": {name: evaluation["protocol"][name] for name in PROTOCOL_FIELDS}}


def make_bundle(
    model: Path, directory: Path, *, name: str, metrics: Mapping[str, Any], lineage: Mapping[str, Any]
) -> tuple[Path, BundleManifest]:
    """Puts the bundle at `directory`/<name>/<first 12 digits of its SHA-256>; one that is there and sound stays.

    Raises:
        BundleError: The model is not a sound bundle.
        EnvironmentProblemError: The folder cannot be written.
    """
    incoming = directory / name / f".incoming-{os.getpid()}"
    try:
        manifest = copy_bundle(model, incoming, name=name, metrics=metrics, lineage=lineage)
        target = directory / name / bundle_digest(manifest)[:12]
        if not _is_sound(target):
            if target.exists():
                shutil.rmtree(target)
            incoming.rename(target)
    except OSError as error:
        raise EnvironmentProblemError(
            f"could not write the bundle ({error.strerror or error})",
            where=str(directory),
            remedy="Free space or change the rights of the folder, then run the command again.",
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return target, manifest


def _is_sound(directory: Path) -> bool:
    try:
        return bundle_digest(read_bundle(directory)).startswith(directory.name)
    except BundleError:
        return False


def keep_features(bundle: Path, features: Path, manifest: BundleManifest, slipway_version: str) -> Path | None:
    """Keeps the latest values of the views that the model reads beside it, so that they outlive the run's folder.

    Returns:
        The features artifact; None if the model reads no features.
    """
    if not manifest.views:
        return None
    target = bundle / FEATURES
    parent = read_manifest(features, kind="features").as_parent("features")
    if target.is_dir() and read_manifest(target).parents == (parent,):
        return target
    with write_artifact(target, kind="features", slipway_version=slipway_version) as draft:
        draft.parents = [parent]
        for view in manifest.views:
            shutil.copyfile(features / f"latest_{view.name}.parquet", draft.path / f"latest_{view.name}.parquet")
        views = [view.model_dump(mode="json") for view in manifest.views]
        write_atomically(draft.path / "views.json", canonical_json(views) + "\n")
    return target


def keep_evaluation(bundle: Path, evaluation: Path) -> None:
    """Keeps what the registry shows of the evaluation beside the bundle."""
    for name in EVALUATION_FILES:
        write_atomically(bundle / EVALUATION / name, (evaluation / name).read_bytes())
