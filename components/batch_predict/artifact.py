"""Batch prediction as a step of a pipeline: reads a `tables` artifact, writes a `predictions` artifact."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slipway.components.batch_predict.step import BatchPredictRequest
from slipway.components.batch_predict.step import run as predict
from slipway.components.progress import Progress
from slipway.contracts.artifacts import Parent, read_manifest, write_artifact

INPUT = "input"
CANDIDATES = "candidates"
PREDICTIONS = "predictions.parquet"
FEATURES = "features"


class BatchPredictionsRequest(BaseModel):
    """What to answer: tables `input` and, if there, `candidates` of the artifact `tables`, by the model `bundle`.

    Where the bundle is in an object store only, `bundle_uri` is its address and `bundle_sha256` its digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: Path
    bundle: Path | None = None
    bundle_uri: str | None = None
    bundle_sha256: str = ""
    output: Path
    k: int = Field(default=10, ge=1, le=10_000)
    exclude_seen: bool = True
    user_columns: tuple[str, ...] = ("user",)
    item_columns: tuple[str, ...] = ("item",)
    project_directory: Path = Path()

    @model_validator(mode="after")
    def _one_bundle(self) -> BatchPredictionsRequest:
        if (self.bundle is None) == (self.bundle_uri is None):
            raise ValueError("name the bundle's folder or its address")
        return self


class BatchPredictionsResult(BaseModel):
    """The artifact; `metrics` are rows read, rows written and fallbacks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    bundle_sha256: str
    fallbacks: dict[str, int]
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: BatchPredictionsRequest, progress: Progress) -> BatchPredictionsResult:
    """Predicts. Raises what `slipway.components.batch_predict.step.run` raises."""
    tables = read_manifest(request.tables, kind="tables", verify=True)
    bundle = _bundle(request)
    features = bundle / FEATURES
    with write_artifact(
        request.output, kind="predictions", slipway_version=importlib.metadata.version("slipway")
    ) as draft:
        made = predict(
            BatchPredictRequest(
                bundle=bundle,
                input=INPUT,
                candidates=CANDIDATES if (request.tables / CANDIDATES).is_dir() else None,
                output=draft.path / PREDICTIONS,
                k=request.k,
                exclude_seen=request.exclude_seen,
                features=features if features.is_dir() else None,
                user_columns=request.user_columns,
                item_columns=request.item_columns,
                base=request.tables,
                project_directory=request.project_directory,
            ),
            progress,
        )
        draft.rows = {PREDICTIONS: made.rows}
        draft.parents = [
            tables.as_parent("tables"),
            Parent(name="model", kind="bundle", fingerprint=made.bundle_sha256),
        ]
        draft.metadata = {"kind": made.kind, "fallbacks": made.fallbacks}
    return BatchPredictionsResult(
        output=request.output,
        fingerprint=read_manifest(request.output).fingerprint,
        bundle_sha256=made.bundle_sha256,
        fallbacks=made.fallbacks,
        metrics=made.metrics,
    )


def _bundle(request: BatchPredictionsRequest) -> Path:
    if request.bundle is not None:
        return request.bundle
    from slipway.models.bundle_store import fetch_bundle

    assert request.bundle_uri is not None
    # Beside the output, which is on a disk with space for artifacts.
    target = request.output.with_name("bundle") / request.bundle_sha256[:12]
    return fetch_bundle(request.bundle_uri, request.bundle_sha256, target)
