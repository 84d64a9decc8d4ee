"""Makes a registered version of a model that passed its gates.

The bundle with metrics and lineage goes to <project>/.slipway/bundles/<name>/<sha12>, or on a cluster to
<bundles>/<name>/<sha12> of an object store; beside it lie the card, the evaluation, and the latest feature values that
the model reads. MLflow gets a version whose source is that place, with lineage as tags and the alias `challenger`.
Running it again with the same model finds the same version.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.progress import Progress
from slipway.components.register.bundles import (
    BUNDLES,
    CARD,
    FEATURES,
    keep_evaluation,
    keep_features,
    make_bundle,
    metrics_for_bundle,
)
from slipway.components.register.card import model_card
from slipway.contracts.artifacts import Manifest, read_manifest, write_artifact
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import ArtifactError, GateError
from slipway.contracts.files import write_atomically, write_json
from slipway.models.bundle_store import upload_bundle_to_store
from slipway.models.registry import CHALLENGER, registry_for


class RegisterRequest(BaseModel):
    """What to register and under which name.

    `model`, `evaluation`, `features` and `dataset` are artifacts of one run; `run_id` is the run's. `sources` are the
    sources of the data, whose licences the card quotes. `tracking_uri` is MLflow's; None is the project's own SQLite.
    `bundles` is where bundles go in an object store, `s3://bucket/prefix`; None is the project's folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    model: Path
    evaluation: Path
    features: Path
    output: Path
    dataset: Path | None = None
    project_directory: Path = Path()
    tracking_uri: str | None = None
    bundles: str | None = None
    run_id: str | None = None
    sources: tuple[str, ...] = ()
    alias: str | None = Field(default=CHALLENGER)


class RegisterResult(BaseModel):
    """The version. `new` is False when this very bundle was registered before; `bundle_uri` is where others find it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    name: str
    version: str
    alias: str | None
    bundle: Path
    bundle_uri: str = ""
    bundle_sha256: str
    new: bool
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: RegisterRequest, progress: Progress) -> RegisterResult:
    """Registers a model.

    Raises:
        GateError: A gate was not met; every failed one is named with value and bound.
        ArtifactError: The evaluation is of another model, or an artifact is not whole.
        BundleError: The model is not a sound bundle.
        ServiceError: MLflow or the object store does not answer; a second run goes on from there.
    """
    gates = _read(request.evaluation, "gates.json")
    _refuse_failed(gates, request)
    evaluation_manifest = read_manifest(request.evaluation, kind="evaluation", verify=True)
    model_digest = bundle_digest(read_bundle(request.model))
    judged = {parent.name: parent.fingerprint for parent in evaluation_manifest.parents}
    if judged.get("model") != model_digest:
        raise ArtifactError(
            "the evaluation is of another model", where=str(request.evaluation), remedy="Run evaluate on this model."
        )
    evaluation = _read(request.evaluation, "metrics.json")
    features = read_manifest(request.features, kind="features")
    dataset = read_manifest(request.dataset, kind="dataset") if request.dataset is not None else None
    slipway_version = importlib.metadata.version("slipway")

    progress.stage("writing the bundle", total=None)
    lineage = {
        "dataset": dataset.fingerprint if dataset is not None else _parent_of(features, "dataset"),
        "features": features.fingerprint,
        "feature_views": {view.name: view.schema_hash for view in read_bundle(request.model, verify=False).views},
        "model": model_digest,
        "slipway": slipway_version,
    }
    bundle, manifest = make_bundle(
        request.model,
        # What goes to a store is laid out beside the output first, which is on a disk with space for artifacts.
        (request.project_directory if request.bundles is None else request.output.with_name("stored")).resolve()
        / BUNDLES,
        name=request.name,
        metrics=metrics_for_bundle(evaluation),
        lineage=lineage,
    )
    sha256 = bundle_digest(manifest)
    kept_features = keep_features(bundle, request.features, manifest, slipway_version)
    keep_evaluation(bundle, request.evaluation)
    whole_lineage = {
        **{key: value for key, value in lineage.items() if key != "feature_views"},
        "evaluation": evaluation_manifest.fingerprint,
        "git_commit": git_commit(request.project_directory),
        "run_id": request.run_id,
    }
    card = model_card(
        manifest,
        sha256=sha256,
        evaluation=evaluation,
        gates=gates,
        data=_data_facts(dataset, features),
        lineage=whole_lineage,
        licences=_licences(request.sources),
    )
    write_atomically(bundle / CARD, card)

    uri = None
    if request.bundles is not None:
        progress.stage("storing the bundle", total=None)
        uri = f"{request.bundles.rstrip('/')}/{request.name}/{sha256[:12]}"
        upload_bundle_to_store(bundle, uri)
    progress.stage("registering in MLflow", total=None)
    registry = registry_for(request.project_directory, request.tracking_uri)
    known = {version.sha256 for version in registry.list(request.name)}
    tags = {f"slipway.{key}": str(value) for key, value in whole_lineage.items() if value is not None}
    # Serving fills the online store from this folder.
    kept = str(kept_features) if kept_features is not None else ""
    tags["slipway.features"] = f"{uri}/{FEATURES}" if kept and uri is not None else kept
    tags["slipway.features_fingerprint"] = features.fingerprint
    tags["slipway.family"] = manifest.family
    version = registry.register(bundle, request.name, tags, request.alias, description=_summary(evaluation), uri=uri)
    content = {
        "name": version.name,
        "version": version.version,
        "alias": request.alias,
        "bundle_uri": version.uri,
        "bundle_sha256": sha256,
    }
    with write_artifact(request.output, kind="registration", slipway_version=slipway_version) as draft:
        draft.parents = [evaluation_manifest.as_parent("evaluation")]
        write_json(draft.path / "registration.json", content)
        write_atomically(draft.path / CARD, card)
    progress.note(f"{version.name} version {version.version} is registered from {uri or bundle}")
    return RegisterResult(
        output=request.output,
        fingerprint=read_manifest(request.output).fingerprint,
        name=version.name,
        version=version.version,
        alias=request.alias,
        bundle=bundle,
        bundle_uri=version.uri,
        bundle_sha256=sha256,
        new=sha256 not in known,
    )


def git_commit(directory: Path) -> str | None:
    """Returns the commit of the project's checkout, with "+changes" if files differ from it; None outside Git."""
    try:
        command = ["git", "-C", str(directory.resolve())]
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot be read ({error})", where=str(folder), remedy="Run evaluate again."
        ) from error
    assert isinstance(content, dict)
    return content


def _refuse_failed(gates: dict[str, Any], request: RegisterRequest) -> None:
    failed = [gate for gate in gates["gates"] if not gate["passed"]]
    if not failed and gates["passed"]:
        return
    lines = [f"  {gate['gate']}: {_shown(gate['value'])}. {gate['why']}" for gate in failed]
    number = len(failed)
    raise GateError(
        f"{number} of {len(gates['gates'])} gates {'was' if number == 1 else 'were'} not met, {request.name} was not "
        "registered:\n" + "\n".join(lines) + "\n",
        remedy=f"Train a better model, or change the gates. The evaluation: {request.evaluation / 'report.md'}",
    )


def _shown(value: float | None) -> str:
    return "no value" if value is None else f"{value:.4f}"


def _parent_of(manifest: Manifest, kind: str) -> str | None:
    return next((parent.fingerprint for parent in manifest.parents if parent.kind == kind), None)


def _data_facts(dataset: Manifest | None, features: Manifest) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if dataset is not None:
        facts["rows"] = ", ".join(f"{name.removesuffix('.parquet')} {count:,}" for name, count in dataset.rows.items())
    time_range = (dataset and dataset.time_range) or features.time_range
    if time_range is not None:
        facts["events"] = f"{time_range[0]} to {time_range[1]}"
    return facts


def _licences(sources: tuple[str, ...]) -> list[str]:
    from slipway.datasets.samples import PREFIX, SAMPLES

    names = {source.removeprefix(PREFIX).strip("/") for source in sources if source.startswith(PREFIX)}
    return sorted({SAMPLES[name][0] for name in names if name in SAMPLES})


def _summary(evaluation: dict[str, Any]) -> str:
    values = [
        f"{name} {entry['value']:.4f}" for name, entry in evaluation["metrics"].items() if entry["value"] is not None
    ]
    protocol = evaluation["protocol"]
    return f"{', '.join(values)} ({protocol['ranking']}, seen items {protocol['seen_items']})"
