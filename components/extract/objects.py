"""Files behind a source: on a mounted volume, or objects of an S3 store; listed with size and time, and copied."""

from __future__ import annotations

import fnmatch
import posixpath
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from slipway.contracts.errors import DataError, ServiceError
from slipway.datasets.sources import CSV_SUFFIXES, PARQUET_SUFFIXES, open_source
from slipway.models.object_store import S3, object_store

SUFFIXES = (*PARQUET_SUFFIXES, *CSV_SUFFIXES)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `name` is relative to the source, `changed` is in nanoseconds since 1970."""

    path: str
    name: str
    size: int
    changed: int

    def stamp(self) -> list[str | int]:
        """Returns what changes when the file is written anew."""
        return [self.path, self.size, self.changed]


def list_files(source: str, base: Path, store: pafs.FileSystem | None = None) -> list[SourceFile]:
    """Returns the table files of a source, by path.

    Args:
        source: `s3://bucket/key`, a prefix that ends in a slash, or a pattern with `*`; or a path relative to `base`.
        base: Folder of the project file.
        store: The object store; by default the one that the environment describes.

    Raises:
        DataError: Nothing is there.
        ServiceError: The store does not answer, or refuses.
    """
    if not source.startswith(S3):
        files = open_source(source, base).files
        return [
            SourceFile(str(file), f"{number:05d}-{file.name}", file.stat().st_size, file.stat().st_mtime_ns)
            for number, file in enumerate(files)
        ]
    place = source.removeprefix(S3)
    pattern = any(mark in place for mark in "*?[")
    folder = place[: min(place.index(mark) for mark in "*?[" if mark in place)].rpartition("/")[0] if pattern else place
    try:
        store = store or object_store()
        info = store.get_file_info(folder.rstrip("/"))
        if not pattern and info.type == pafs.FileType.File:
            found = [info]
        else:
            found = store.get_file_info(pafs.FileSelector(folder.rstrip("/"), recursive=True, allow_not_found=True))
    except OSError as error:
        raise ServiceError(
            f"the object store does not answer ({error})",
            where=source,
            remedy="Check kubernetes.s3: endpoint, region and the secret with the keys.",
        ) from error
    entries = [
        SourceFile(entry.path, posixpath.relpath(entry.path, folder.rstrip("/")), entry.size, entry.mtime_ns)
        for entry in found
        if entry.type == pafs.FileType.File
        and entry.path.lower().endswith(SUFFIXES)
        and (not pattern or fnmatch.fnmatchcase(entry.path, place))
        and not any(part.startswith((".", "_")) for part in entry.path[len(folder) :].split("/"))
    ]
    if not entries:
        raise DataError(
            "no Parquet or CSV object is there", where=source, remedy="End a prefix in a slash, or name an object."
        )
    if entries[0].name == ".":
        entries = [
            SourceFile(entry.path, posixpath.basename(entry.path), entry.size, entry.changed) for entry in entries
        ]
    return sorted(entries, key=lambda entry: entry.path)


def copy_file(source: str, file: SourceFile, target: Path, store: pafs.FileSystem | None = None) -> None:
    """Copies one listed file.

    Raises:
        ServiceError: The store does not answer, or the object is gone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    origin = (store or object_store()) if source.startswith(S3) else pafs.LocalFileSystem()
    try:
        pafs.copy_files(file.path, str(target), source_filesystem=origin, destination_filesystem=pafs.LocalFileSystem())
    except OSError as error:
        raise ServiceError(
            f"the file could not be copied ({error})",
            where=file.path,
            remedy="It may have been replaced meanwhile: run the pipeline again.",
        ) from error
