"""Artifacts: directories with a manifest that names every file, its hash, and where it came from.

The manifest chain is the lineage: each artifact names the fingerprints of its parents.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.errors import ArtifactError, EnvironmentProblemError
from slipway.contracts.files import canonical_json, sha256_of, sha256_of_file, write_atomically

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1


class FileEntry(BaseModel):
    """One file of an artifact: path relative to the directory, size in bytes, SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int
    sha256: str


class Parent(BaseModel):
    """An input of the step that made the artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: str
    fingerprint: str


class Manifest(BaseModel):
    """What an artifact directory holds.

    `columns` maps a table file to its column types; `rows` maps it to its number of rows; `time_range` are the
    first and last event time as ISO 8601; `metadata` is the step's own and must be free of run-specific values
    (times, paths, ids), so that the same inputs give the same fingerprint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = FORMAT_VERSION
    kind: str
    slipway_version: str
    files: tuple[FileEntry, ...]
    rows: dict[str, int] = Field(default_factory=dict)
    columns: dict[str, dict[str, str]] = Field(default_factory=dict)
    time_range: tuple[str, str] | None = None
    parents: tuple[Parent, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the whole manifest: same content and lineage, same fingerprint."""
        return sha256_of(canonical_json(self.model_dump(mode="json")))

    def as_parent(self, name: str) -> Parent:
        """Returns the reference by which a later artifact names this one."""
        return Parent(name=name, kind=self.kind, fingerprint=self.fingerprint)


class ArtifactDraft:
    """An artifact being written. Put files under `path`; describe them with the attributes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, int] = {}
        self.columns: dict[str, dict[str, str]] = {}
        self.time_range: tuple[str, str] | None = None
        self.parents: list[Parent] = []
        self.metadata: dict[str, Any] = {}


@contextlib.contextmanager
def write_artifact(target: Path, *, kind: str, slipway_version: str) -> Iterator[ArtifactDraft]:
    """Gives a draft directory and, if the block ends well, puts it at `target` in one rename.

    If the block raises, `target` stays as it was. An older artifact at `target` is replaced.

    Args:
        target: Directory of the finished artifact.
        kind: What the artifact is: dataset, features, model, evaluation, ...
        slipway_version: Version of the code that writes it.

    Raises:
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        draft = ArtifactDraft(partial)
        yield draft
        entries = tuple(
            FileEntry(path=str(file.relative_to(partial)), size=file.stat().st_size, sha256=sha256_of_file(file))
            for file in sorted(partial.rglob("*"))
            if file.is_file() and file.name != MANIFEST
        )
        manifest = Manifest(
            kind=kind,
            slipway_version=slipway_version,
            files=entries,
            rows=draft.rows,
            columns=draft.columns,
            time_range=draft.time_range,
            parents=tuple(draft.parents),
            metadata=draft.metadata,
        )
        write_atomically(partial / MANIFEST, canonical_json(manifest.model_dump(mode="json")) + "\n")
        _replace_directory(partial, target)
    except OSError as error:
        raise EnvironmentProblemError(
            f"could not write the {kind} artifact ({error.strerror or error})",
            where=str(target),
            remedy="Free space or change the rights of the folder; nothing half-written was left.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace_directory(source: Path, target: Path) -> None:
    if target.exists():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def read_manifest(directory: Path, *, kind: str | None = None, verify: bool = False) -> Manifest:
    """Reads the manifest of an artifact.

    Args:
        directory: The artifact.
        kind: The kind that the caller expects; None accepts any.
        verify: Also read every file and compare sizes and hashes.

    Raises:
        ArtifactError: The manifest is absent or unreadable, the kind differs, or a file is absent or altered.
    """
    where = str(directory)
    remedy = "Run the step that makes it again."
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ArtifactError("no artifact here: manifest.json is missing", where=where, remedy=remedy) from None
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"manifest.json cannot be read ({error})", where=where, remedy=remedy) from error
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(
            f"this is a {manifest.kind} artifact, not a {kind} artifact", where=where, remedy="Pass the right path."
        )
    if verify:
        for entry in manifest.files:
            file = directory / entry.path
            if not file.is_file():
                raise ArtifactError(f"{entry.path} is missing", where=where, remedy=remedy)
            if file.stat().st_size != entry.size or sha256_of_file(file) != entry.sha256:
                raise ArtifactError(f"{entry.path} is not the file that was written", where=where, remedy=remedy)
    return manifest


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """Returns one fingerprint for a mapping of plain values, for cache keys."""
    return sha256_of(canonical_json(dict(parts)))
