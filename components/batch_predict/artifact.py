"""Batch prediction as a step of a pipeline: reads a `tables` artifact, writes a `predictions` artifact."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.batch_predict.step import BatchPredictRequest
from slipway.components.batch_predict.step import run as predict
from slipway.components.progress import Progress
from slipway.contracts.artifacts import Parent, read_manifest, write_artifact

INPUT = "input"
CANDIDATES = "candidates"
PREDICTIONS = "predictions.parquet"
FEATURES = "features"


class BatchPredictionsRequest(BaseModel):
    """What to answer: tables `input` and, if there, `candidates` of the artifact `tables`, by the model `bundle`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: Path
    bundle: Path
    output: Path
    k: int = Field(default=10, ge=1, le=10_000)
    exclude_seen: bool = True
    user_columns: tuple[str, ...] = ("user",)
    item_columns: tuple[str, ...] = ("item",)
    project_directory: Path = Path()


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
    features = request.bundle / FEATURES
    with write_artifact(
        request.output, kind="predictions", slipway_version=importlib.metadata.version("slipway")
    ) as draft:
        made = predict(
            BatchPredictRequest(
                bundle=request.bundle,
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
