"""Answers a table of users with their top items, or scores given (user, item) pairs, in memory that does not grow.

The input is read, answered and written batch by batch; the output appears in one rename when it is whole.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from slipway.components.batch_predict.answers import LISTS, PAIRS, Candidates, rank, score
from slipway.components.batch_predict.features import FeatureReader
from slipway.components.batch_predict.output import TableWriter
from slipway.components.id_tables import IdTable
from slipway.components.progress import Progress
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import DataError
from slipway.models.families import load_model

_BATCH_BYTES = 64 << 20
_READ_ROWS = 8192


class BatchPredictRequest(BaseModel):
    """What to answer, and where the answers go.

    `bundle` is a model bundle. `input` is a table with the column `user`; with a column `item` too its pairs are
    scored. `output` ends in .parquet or .csv. `candidates` is a table of `item`, or of `user` and `item`, that limits
    what is recommended. Features come from `redis_url` if given, else from the artifact `features`. `user_columns` and
    `item_columns` are names that the columns may have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path
    input: str
    output: Path
    candidates: str | None = None
    k: int = Field(default=10, ge=1, le=10_000)
    exclude_seen: bool = True
    features: Path | None = None
    redis_url: str | None = None
    feature_project: str = ""
    project_directory: Path = Path()
    base: Path = Path()
    user_columns: tuple[str, ...] = ("user",)
    item_columns: tuple[str, ...] = ("item",)


class BatchPredictResult(BaseModel):
    """What was answered. `fallbacks` counts users (or pairs) by the reason why the model did not answer itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    bundle_sha256: str
    kind: str
    inputs: int
    rows: int
    fallbacks: dict[str, int]
    unknown_candidates: int
    features: str
    users_without_features: int
    seconds: float
    peak_memory_bytes: int
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: BatchPredictRequest, progress: Progress) -> BatchPredictResult:
    """Predicts.

    Raises:
        BundleError: The bundle is corrupt.
        DataError: The input is absent, empty, or an id is missing.
        ServiceError: The online store does not answer.
        UsageError: The output's suffix is unknown.
        EnvironmentProblemError: The output cannot be written.
    """
    started = time.monotonic()
    progress.stage("reading", total=None)
    manifest = read_bundle(request.bundle)
    model = load_model(request.bundle, verify=False, base=request.project_directory)
    names = {"user": request.user_columns, "item": request.item_columns}
    table = IdTable(request.input, request.base, names, optional=("item",))
    pairs = "item" in table.columns
    candidates = None
    if request.candidates is not None:
        if pairs:
            raise DataError(
                "the input holds pairs to be scored, so there is nothing to choose candidates for",
                where=request.input,
                remedy="Leave out --candidates, or the column of items.",
            )
        given = IdTable(request.candidates, request.base, names, optional=("user",))
        candidates = Candidates(given, model.items)
    features = FeatureReader(
        manifest.views, artifact=request.features, redis_url=request.redis_url, project=request.feature_project
    )
    total = table.count()
    if total == 0:
        raise DataError("the table has no rows", where=request.input, remedy="Give at least one user.")
    progress.stage("scoring pairs" if pairs else "ranking", total=total)
    size = _READ_ROWS if pairs else max(1, min(4096, _BATCH_BYTES // (10 * max(len(model.items), 1))))
    fallbacks: Counter[str] = Counter()
    with TableWriter(request.output, PAIRS if pairs else LISTS) as writer:
        for batch in table.batches(_READ_ROWS):
            for start in range(0, batch.num_rows, size):
                part = batch.slice(start, size)
                users = part.column("user").to_pylist()
                values = features.of(users)
                if pairs:
                    answer = score(model, users, part.column("item").to_pylist(), values)
                    reasons = answer.column("fallback")
                else:
                    answer = rank(
                        model,
                        users,
                        values,
                        k=request.k,
                        exclude_seen=request.exclude_seen,
                        candidates=candidates,
                    )
                    reasons = answer.filter(pc.field("rank") == 1).column("fallback")
                fallbacks.update(reason for reason in reasons.to_pylist() if reason is not None)
                writer.write(answer)
                progress.advance(part.num_rows)
    seconds = time.monotonic() - started
    return BatchPredictResult(
        output=request.output,
        bundle_sha256=bundle_digest(manifest),
        kind="pairs" if pairs else "lists",
        inputs=total,
        rows=writer.rows,
        fallbacks=dict(sorted(fallbacks.items())),
        unknown_candidates=candidates.unknown if candidates is not None else 0,
        features=features.source,
        users_without_features=features.missing,
        seconds=round(seconds, 3),
        # Kilobytes on Linux.
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        metrics={"inputs": float(total), "rows": float(writer.rows), "fallbacks": float(sum(fallbacks.values()))},
    )
