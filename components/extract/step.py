"""Copies the sources of a run into a `tables` artifact: one folder a table, as the run found it.

Later steps read the copy, so that a source that changes meanwhile changes nothing, and so that what a model was trained
on can be looked at afterwards. With a window, interactions outside of it are left out; rows whose time cannot be read
stay, for the validate step counts them.
"""

# ruff: noqa: S608 - names are quoted by quote(); the database is this process's own

from __future__ import annotations

import importlib.metadata
import shutil
from datetime import UTC
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from slipway.components.extract.objects import copy_file, list_files
from slipway.components.progress import Progress
from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.data import InteractionsSpec
from slipway.contracts.errors import DataError
from slipway.datasets.interactions import typed_columns
from slipway.datasets.samples import PREFIX
from slipway.datasets.sources import FILE_COLUMN, connect, literal, open_source, quote

INTERACTIONS = "interactions"


class ExtractRequest(BaseModel):
    """What to copy. `tables` maps a table's name to its source; relative sources are found from `base`.

    `window_start` and `window_end` bound the times of interactions, whose columns `interactions` describes; the end is
    not part of the window. Without them everything is copied.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: dict[str, str] = Field(min_length=1)
    output: Path
    base: Path = Path()
    interactions: InteractionsSpec | None = None
    window_start: AwareDatetime | None = None
    window_end: AwareDatetime | None = None

    @field_validator("window_start", "window_end", mode="before")
    @classmethod
    def _no_text_is_none(cls, value: object) -> object:
        # A parameter of a pipeline is a text, never null.
        return None if value == "" else value


class ExtractResult(BaseModel):
    """What was copied. `metrics` are rows or files a table, and bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    metrics: dict[str, float]


def run(request: ExtractRequest, progress: Progress) -> ExtractResult:
    """Copies the sources.

    Raises:
        DataError: A source is absent or unreadable, or the window holds no interaction.
        ServiceError: The object store does not answer.
        EnvironmentProblemError: The disk is full.
    """
    metrics: dict[str, float] = {}
    with write_artifact(request.output, kind="tables", slipway_version=importlib.metadata.version("slipway")) as draft:
        for name, source in progress.track(sorted(request.tables.items()), "copying sources"):
            folder = draft.path / name
            folder.mkdir()
            if source.startswith(PREFIX):
                metrics[f"{name}.rows"] = _write(name, source, request.base, folder, request)
            else:
                raw = folder / "raw"
                files = list_files(source, request.base)
                for file in files:
                    copy_file(source, file, raw / file.name)
                metrics[f"{name}.files"] = len(files)
                if name == INTERACTIONS and request.window_end is not None:
                    metrics[f"{name}.rows"] = _write(name, "raw", folder, folder, request)
                    shutil.rmtree(raw)
        draft.metadata = {
            "window": [str(request.window_start or ""), str(request.window_end or "")],
            "sources": dict(sorted(request.tables.items())),
        }
    manifest = read_manifest(request.output)
    metrics["bytes"] = sum(entry.size for entry in manifest.files)
    return ExtractResult(output=request.output, fingerprint=manifest.fingerprint, metrics=metrics)


def _write(name: str, source: str, base: Path, folder: Path, request: ExtractRequest) -> float:
    """Writes the rows of a source as one Parquet file and returns their number."""
    table = open_source(source, base)
    target = folder / f"{name}.parquet"
    with connect(temporary=folder / ".spill") as connection:
        table.view(connection, name)
        where = ""
        if name == INTERACTIONS and request.window_end is not None:
            moment = typed_columns(table, request.interactions or InteractionsSpec(source=source))["timestamp"]
            bounds = [f"{moment} < {_naive(request.window_end)}"]
            if request.window_start is not None:
                bounds.append(f"{moment} >= {_naive(request.window_start)}")
            where = f"WHERE {moment} IS NULL OR ({' AND '.join(bounds)})"
        query = f"SELECT * EXCLUDE ({FILE_COLUMN}) FROM {quote(name)} {where}"
        connection.execute(f"COPY ({query}) TO {literal(str(target))} (FORMAT parquet)")
        counted = connection.execute(f"SELECT count(*) FROM read_parquet({literal(str(target))})").fetchone()
    assert counted is not None
    if where and counted[0] == 0:
        raise DataError(
            "the window holds no interaction",
            where=f"{request.window_start} to {request.window_end}",
            remedy="Widen retraining.window, or look why no data arrived.",
        )
    return float(counted[0])


def _naive(moment: AwareDatetime) -> str:
    return f"TIMESTAMP '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"
