"""What steps made before, so that an unchanged step need not run again.

An entry is a folder `<root>/<step>/<key>` with entry.json and a copy of each output directory. Copies are hard links:
they take no space, and neither clearing old runs nor clearing the cache harms the other. A hit is given only after
every file of every output was read and found to be what was written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.artifacts import read_manifest
from slipway.contracts.bundle import MODEL, bundle_digest, read_bundle
from slipway.contracts.errors import ArtifactError, BundleError, EnvironmentProblemError
from slipway.contracts.files import write_atomically

ENTRY = "entry.json"


class CacheEntry(BaseModel):
    """What a step made: the fingerprint of each output, the result that it returned, and where the outputs were."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    key: str
    outputs: dict[str, str]
    metrics: dict[str, float] = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)
    folder: str = ""
    seconds: float = 0.0

    def result_at(self, folder: Path) -> dict[str, Any]:
        """Returns the result with its paths as they are when the outputs are under `folder`."""
        moved: dict[str, Any] = _moved(self.result, self.folder, str(folder))
        return moved


class StepCache:
    """Entries under one folder, by step and key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def peek(self, step: str, key: str) -> CacheEntry | None:
        """Returns the entry of a key, its outputs unread; None if there is none."""
        try:
            return CacheEntry.model_validate_json((self.root / step / key / ENTRY).read_bytes())
        except (OSError, ValidationError):
            return None

    def take(self, step: str, key: str, outputs: Mapping[str, Path]) -> CacheEntry | None:
        """Puts the outputs of an earlier run in place and returns its entry; None if there is none that is whole.

        Args:
            step: Name of the step.
            key: What the outputs depend on, hashed.
            outputs: Where each output directory goes.
        """
        folder = self.root / step / key
        entry = self.peek(step, key)
        if entry is None or set(entry.outputs) != set(outputs):
            return None
        try:
            for name, fingerprint in entry.outputs.items():
                if fingerprint_of_output(folder / name, verify=True) != fingerprint:
                    return None
            for name, target in outputs.items():
                link_tree(folder / name, target)
        except (OSError, ArtifactError, BundleError):
            return None
        return entry

    def put(self, entry: CacheEntry, outputs: Mapping[str, Path]) -> None:
        """Keeps the outputs of a step for later runs; an entry of the same key is replaced."""
        folder = self.root / entry.step / entry.key
        partial = folder.with_name(f".{entry.key}.partial-{os.getpid()}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, source in outputs.items():
                link_tree(source, partial / name)
            write_atomically(partial / ENTRY, entry.model_dump_json(indent=2) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def sweep(self) -> None:
        """Removes what a killed process left half-written. Only for one who knows that nobody is writing."""
        for folder in self.root.glob("*/.*.partial-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def checkpoint(self, step: str, key: str) -> Path:
        """Returns the folder in which a step may keep what it needs to go on after a kill."""
        return self.root / "checkpoints" / f"{step}-{key}"

    def drop_checkpoint(self, step: str, key: str) -> None:
        """Removes the checkpoint of a step that has finished."""
        shutil.rmtree(self.checkpoint(step, key), ignore_errors=True)


def fingerprint_of_output(directory: Path, *, verify: bool = False) -> str:
    """Returns the fingerprint of an artifact or the digest of a model bundle.

    Raises:
        ArtifactError: There is neither, or a file is missing or altered.
        BundleError: The bundle is altered.
    """
    if (directory / MODEL).is_file() and not (directory / "manifest.json").is_file():
        return bundle_digest(read_bundle(directory, verify=verify))
    return read_manifest(directory, verify=verify).fingerprint


def link_tree(source: Path, target: Path) -> None:
    """Makes `target` hold the files of `source` as hard links, or as copies where links are impossible.

    Raises:
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, copy_function=_link)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)
    except (OSError, shutil.Error) as error:
        raise EnvironmentProblemError(
            f"could not copy {source} ({error})",
            where=str(target),
            remedy="Free space or change the rights of the folder, then run the command again.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial, ignore_errors=True)


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [_moved(part, old, new) for part in value]
    inside = isinstance(value, str) and old and (value == old or value.startswith(old + "/"))
    return new + value[len(old) :] if inside else value


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
