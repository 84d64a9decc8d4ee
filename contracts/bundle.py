"""The model bundle: the one form in which a trained model travels from training to traffic.

A bundle is a directory: `model.json` (this manifest), `weights.safetensors` (what the family learnt) and
`index.safetensors` (ids, seen items, popularity). Nothing in it is code or pickle. The manifest holds the SHA-256 of
every file and of itself, so one changed byte anywhere is refused before the model meets traffic.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slipway.contracts.artifacts import FileEntry
from slipway.contracts.errors import BundleError, EnvironmentProblemError
from slipway.contracts.features import ViewSchema
from slipway.contracts.files import canonical_json, sha256_of, sha256_of_file, write_atomically

FORMAT_VERSION = 1
MODEL = "model.json"
WEIGHTS = "weights.safetensors"
INDEX = "index.safetensors"
_REMEDY = "Do not serve it: fetch the bundle again or train the model again."


class Counts(BaseModel):
    """What the model was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: int
    items: int
    interactions: int


class Signature(BaseModel):
    """What goes into a request and what comes out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, str] = Field(
        default_factory=lambda: {"user": "string", "k": "int64", "exclude_seen": "bool", "exclude": "list<string>"}
    )
    outputs: dict[str, str] = Field(
        default_factory=lambda: {"items": "list<string>", "scores": "list<float64>", "fallback": "string"}
    )


class BundleManifest(BaseModel):
    """Content of model.json.

    `family` is the name of a built-in family or `module:Class`. `views` are the feature views that the model reads,
    as they were when it was trained. `parameters` are the family's, defaults included. `metrics` and `lineage` are
    added when the model is registered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    family: str
    name: str = ""
    signature: Signature = Field(default_factory=Signature)
    views: tuple[ViewSchema, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)
    counts: Counts
    metrics: dict[str, Any] = Field(default_factory=dict)
    lineage: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileEntry, ...]

    @field_validator("files")
    @classmethod
    def _plain_paths(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        for entry in files:
            path = PurePosixPath(entry.path)
            if path.is_absolute() or ".." in path.parts or entry.path in ("", MODEL):
                raise ValueError(f"{entry.path!r} is not a path inside the bundle")
        return files

    def view(self, name: str) -> ViewSchema:
        """Returns the schema of a view by name.

        Raises:
            KeyError: The model does not read that view.
        """
        for view in self.views:
            if view.name == name:
                return view
        raise KeyError(name)


def bundle_digest(manifest: BundleManifest) -> str:
    """Returns the SHA-256 that stands for the whole bundle: the manifest, and by its hashes every file."""
    return sha256_of(canonical_json(manifest.model_dump(mode="json")))


def read_bundle(directory: Path, *, verify: bool = True) -> BundleManifest:
    """Reads and checks a bundle.

    Args:
        directory: The bundle.
        verify: Also hash every file; otherwise only their presence and sizes are compared.

    Raises:
        BundleError: No bundle, a file missing, truncated or altered, or a format that this version does not know.
    """
    where = str(directory)
    try:
        raw = (directory / MODEL).read_bytes()
        content = json.loads(raw)
    except FileNotFoundError:
        raise BundleError(f"no model bundle here: {MODEL} is missing", where=where, remedy=_REMEDY) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{MODEL} cannot be read ({error})", where=where, remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise BundleError(f"{MODEL} is not a JSON object", where=where, remedy=_REMEDY)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"bundle format {version!r} is unknown; this Slipway reads format {FORMAT_VERSION}",
            where=where,
            remedy="Use the Slipway version that wrote it, or train the model again.",
        )
    digest = content.pop("digest", None)
    try:
        manifest = BundleManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{MODEL} is malformed at {field}: {first['msg']}", where=where, remedy=_REMEDY) from error
    # Compared to the byte, so that a truncated or edited file is refused even where it means the same.
    if digest != bundle_digest(manifest) or raw != _render(manifest).encode():
        raise BundleError(f"{MODEL} was altered: its own hash does not match", where=where, remedy=_REMEDY)
    for entry in manifest.files:
        _check_file(directory, entry, verify=verify)
    return manifest


def _check_file(directory: Path, entry: FileEntry, *, verify: bool) -> None:
    where, file = str(directory), directory / entry.path
    try:
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise BundleError(f"{entry.path} is missing", where=where, remedy=_REMEDY)
        if size != entry.size:
            text = "truncated" if size < entry.size else "longer than what was written"
            raise BundleError(f"{entry.path} is {text} ({size:,} of {entry.size:,} bytes)", where=where, remedy=_REMEDY)
        if verify and sha256_of_file(file) != entry.sha256:
            raise BundleError(f"{entry.path} was altered: its SHA-256 does not match", where=where, remedy=_REMEDY)
    except OSError as error:
        raise BundleError(f"{entry.path} cannot be read ({error.strerror})", where=where, remedy=_REMEDY) from error


def write_bundle(
    directory: Path,
    *,
    family: str,
    counts: Counts,
    files: tuple[str, ...] = (WEIGHTS, INDEX),
    name: str = "",
    views: tuple[ViewSchema, ...] = (),
    parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> BundleManifest:
    """Seals files that are already in `directory` into a bundle by writing model.json last.

    Args:
        directory: Where the files lie.
        files: Their paths relative to `directory`.

    Raises:
        BundleError: A file is not there.
        EnvironmentProblemError: The manifest cannot be written.
    """
    entries = []
    for path in files:
        file = directory / path
        if not file.is_file():
            raise BundleError(f"{path} is missing", where=str(directory), remedy="Write it before sealing the bundle.")
        entries.append(FileEntry(path=path, size=file.stat().st_size, sha256=sha256_of_file(file)))
    manifest = BundleManifest(
        family=family,
        name=name,
        counts=counts,
        views=views,
        parameters=dict(parameters or {}),
        metrics=dict(metrics or {}),
        lineage=dict(lineage or {}),
        files=tuple(entries),
    )
    _write_manifest(directory, manifest)
    return manifest


def copy_bundle(
    source: Path,
    target: Path,
    *,
    name: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> BundleManifest:
    """Copies a bundle, and only its own files, adding name, metrics and lineage; `target` appears in one rename.

    Raises:
        BundleError: The source is not a sound bundle.
        EnvironmentProblemError: The target cannot be written.
    """
    manifest = read_bundle(source)
    changes = {"name": name, "metrics": metrics, "lineage": lineage}
    manifest = manifest.model_copy(
        update={key: dict(value) if isinstance(value, Mapping) else value for key, value in changes.items() if value}
    )
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for entry in manifest.files:
            (partial / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / entry.path, partial / entry.path)
        partial.mkdir(parents=True, exist_ok=True)
        _write_manifest(partial, manifest)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except OSError as error:
        raise EnvironmentProblemError(
            f"could not copy the bundle ({error.strerror or error})",
            where=str(target),
            remedy="Free space or change the rights of the folder, then run the command again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _write_manifest(directory: Path, manifest: BundleManifest) -> None:
    write_atomically(directory / MODEL, _render(manifest))


def _render(manifest: BundleManifest) -> str:
    content = manifest.model_dump(mode="json") | {"digest": bundle_digest(manifest)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
