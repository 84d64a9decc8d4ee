"""Where checkpoints lie: a folder, or a prefix of an S3 store. A checkpoint is whole or it does not exist.

    <location>/epoch-00000003/state.safetensors     named arrays
    <location>/epoch-00000003/checkpoint.json       its hash and size, and what else the reader needs

In a folder the two are written beside their place, flushed to the disk, and appear in one rename. A store has no
rename: there checkpoint.json is written last, and a prefix without it is no checkpoint. Both hold arrays and JSON only.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import EnvironmentProblemError, ServiceError
from slipway.contracts.files import sha256_of

S3 = "s3://"
STATE = "state.safetensors"
MARK = "checkpoint.json"
_NAME = re.compile(r"epoch-(\d{8})")
_PARTIAL = ".partial-"
_KEY_DIGITS = 16


@dataclass(frozen=True)
class CheckpointPlace:
    """Where checkpoints go, and how many.

    `location` is a folder or `s3://bucket/prefix`. One is written after every `every` epochs, the newest `keep` stay.
    """

    location: str
    every: int = 1
    keep: int = 2

    def of_training(self, key: str) -> CheckpointStore:
        """Returns the store of one training: several may share a location."""
        return open_store(f"{self.location.rstrip('/')}/{key[:_KEY_DIGITS]}")

    def keeps(self, epoch: int, *, last: bool) -> bool:
        """Returns whether the state after an epoch, from 1, is kept; that after the last one always is."""
        return last or epoch % self.every == 0

    def clear(self) -> None:
        """Removes everything under the location, which must be one training's alone.

        Raises:
            ServiceError: The object store does not answer, or refuses.
        """
        open_store(self.location).clear()


class CheckpointStore(Protocol):
    """Checkpoints by epoch."""

    location: str

    def epochs(self) -> list[int]:
        """Returns the epochs that have a checkpoint, the newest first."""

    def read(self, epoch: int, name: str) -> bytes | None:
        """Returns a file of a checkpoint; None if it is not there."""

    def write(self, epoch: int, files: Mapping[str, bytes]) -> None:
        """Writes a checkpoint, whole or not at all; `files` are in the order in which they are to appear."""

    def remove(self, epoch: int) -> None:
        """Removes a checkpoint, so that no reader takes what is left of it for one."""

    def clear(self) -> None:
        """Removes everything under the location."""


def place_of(given: Path | CheckpointPlace | None) -> CheckpointPlace | None:
    """Returns a folder as a place."""
    return CheckpointPlace(str(given)) if isinstance(given, Path) else given


def open_store(location: str | Path) -> CheckpointStore:
    """Returns the store of a folder or of `s3://bucket/prefix`."""
    text = str(location)
    return ObjectStore(text) if text.startswith(S3) else FolderStore(Path(text))


class FolderStore:
    """Checkpoints as sub-folders of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)

    def epochs(self) -> list[int]:
        """See `CheckpointStore`."""
        if not self.folder.is_dir():
            return []
        names = [match for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]) for match in names), reverse=True)

    def read(self, epoch: int, name: str) -> bytes | None:
        """See `CheckpointStore`."""
        try:
            return (self.folder / _folder_name(epoch) / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._problem(f"a checkpoint cannot be read ({error.strerror})") from error

    def write(self, epoch: int, files: Mapping[str, bytes]) -> None:
        """See `CheckpointStore`.

        Raises:
            EnvironmentProblemError: The disk is full or the folder cannot be written.
        """
        target = self.folder / _folder_name(epoch)
        partial = self.folder / f".{target.name}{_PARTIAL}{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Only one process writes a training's checkpoints: what another left half-written is a dead one's.
            for leftover in self.folder.glob(f".*{_PARTIAL}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir()
            for name, content in files.items():
                with (partial / name).open("wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
            _flush_folder(partial)
            if target.exists():
                self.remove(epoch)
            partial.rename(target)
            _flush_folder(self.folder)
        except OSError as error:
            size = sum(map(len, files.values()))
            raise self._problem(
                f"could not write a checkpoint of {size:,} bytes ({error.strerror or error})"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def remove(self, epoch: int) -> None:
        """See `CheckpointStore`."""
        target = self.folder / _folder_name(epoch)
        hidden = self.folder / f".{target.name}{_PARTIAL}removed-{os.getpid()}"
        # Renamed first: a removal that is killed halfway must not leave half a checkpoint under its name.
        with contextlib.suppress(OSError):
            target.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def clear(self) -> None:
        """See `CheckpointStore`."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _problem(self, what: str) -> EnvironmentProblemError:
        return EnvironmentProblemError(
            what, where=self.location, remedy="Free space or change the rights of the folder, then run the step again."
        )


class ObjectStore:
    """Checkpoints under a prefix of an S3 store, which the environment describes as for the AWS tools."""

    def __init__(self, location: str) -> None:
        import pyarrow.fs as pafs

        from slipway.models.object_store import object_store

        self.location = location.rstrip("/")
        self._prefix = self.location.removeprefix(S3)
        self._fs = pafs
        with self._answering():
            self._store = object_store()

    def epochs(self) -> list[int]:
        """See `CheckpointStore`.

        Raises:
            ServiceError: The store does not answer, or refuses.
        """
        selector = self._fs.FileSelector(self._prefix, recursive=True, allow_not_found=True)
        with self._answering():
            found = self._store.get_file_info(selector)
        marks = [posixpath.split(entry.path) for entry in found if entry.type == self._fs.FileType.File]
        names = [_NAME.fullmatch(posixpath.basename(folder)) for folder, name in marks if name == MARK]
        return sorted((int(match[1]) for match in names if match), reverse=True)

    def read(self, epoch: int, name: str) -> bytes | None:
        """See `CheckpointStore`.

        Raises:
            ServiceError: The store does not answer, or refuses.
        """
        try:
            with self._answering(), self._store.open_input_stream(self._path(epoch, name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, epoch: int, files: Mapping[str, bytes]) -> None:
        """See `CheckpointStore`.

        Raises:
            ServiceError: The store does not answer, or refuses.
        """
        with self._answering():
            # What is written anew must not be vouched for by the mark of what was there.
            self._delete(epoch, MARK)
            for name, content in files.items():
                with self._store.open_output_stream(self._path(epoch, name)) as stream:
                    stream.write(content)

    def remove(self, epoch: int) -> None:
        """See `CheckpointStore`; the mark goes first.

        Raises:
            ServiceError: The store does not answer, or refuses.
        """
        with self._answering():
            for name in (MARK, STATE):
                self._delete(epoch, name)

    def clear(self) -> None:
        """See `CheckpointStore`.

        Raises:
            ServiceError: The store does not answer, or refuses.
        """
        with self._answering(), contextlib.suppress(FileNotFoundError):
            self._store.delete_dir(self._prefix)

    def _delete(self, epoch: int, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._store.delete_file(self._path(epoch, name))

    def _path(self, epoch: int, name: str) -> str:
        return f"{self._prefix}/{_folder_name(epoch)}/{name}"

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ServiceError(
                f"the object store does not answer, or refuses ({str(error)[:300]})",
                where=self.location,
                remedy="Check AWS_ENDPOINT_URL, the region, the bucket and the keys; in pods these come from "
                "kubernetes.s3.",
            ) from error


def to_files(arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files of a checkpoint, the one that vouches for the other last."""
    from safetensors.numpy import save

    state = save({name: np.asarray(value, order="C") for name, value in arrays.items()})
    mark = {**description, "files": {STATE: {"bytes": len(state), "sha256": sha256_of(state)}}}
    return {STATE: state, MARK: (json.dumps(mark, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()}


def from_store(store: CheckpointStore, epoch: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Returns arrays and description of a checkpoint; None if it is not whole or not what was written."""
    from safetensors.numpy import load

    mark, state = store.read(epoch, MARK), store.read(epoch, STATE)
    if mark is None or state is None:
        return None
    try:
        description = json.loads(mark)
        expected = description["files"][STATE]
        if len(state) != expected["bytes"] or sha256_of(state) != expected["sha256"]:
            return None
        return load(state), description
    except Exception:  # noqa: BLE001 - whatever is wrong with its bytes, it is no checkpoint
        return None


def _folder_name(epoch: int) -> str:
    return f"epoch-{epoch:08d}"


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
