"""Bundles away from this machine: in an S3 store, where KServe loads them from, or as an artifact of an MLflow server.

A bundle in a store is a prefix that holds the files of the folder. `model.json`, which names every other file by its
hash, is written last: a prefix without it is no bundle, and one with it is whole. What is fetched is checked against
the digest that the registry recorded before it appears under its name.
"""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from slipway.contracts.bundle import MODEL, bundle_digest, read_bundle
from slipway.contracts.errors import BundleError, EnvironmentProblemError, ServiceError
from slipway.models.object_store import S3, object_store

DIGITS = 12
_REMEDY = "Check endpoint, region and keys of the object store (kubernetes.s3), then run the command again."


def upload_bundle_to_store(directory: Path, address: str, store: pafs.FileSystem | None = None) -> None:
    """Puts a bundle, and what lies beside its files, under an address; one that is there already stays.

    Args:
        directory: The bundle's folder.
        address: `s3://bucket/prefix`, which belongs to this bundle alone.
        store: The object store; by default the one that the environment describes.

    Raises:
        BundleError: The folder holds no sound bundle.
        ServiceError: The store does not answer, or refuses.
    """
    read_bundle(directory)
    place = _place(address)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MODEL)
    try:
        store = store or object_store()
        if _has(store, f"{place}/{MODEL}", (directory / MODEL).read_bytes()):
            return
        for path in (*files, directory / MODEL):
            target = f"{place}/{path.relative_to(directory).as_posix()}"
            with path.open("rb") as source, store.open_output_stream(target) as stream:
                shutil.copyfileobj(source, stream, 1 << 22)
    except OSError as error:
        raise ServiceError(f"the bundle could not be stored ({error})", where=address, remedy=_REMEDY) from error


def fetch_bundle(address: str, sha256: str, target: Path, store: pafs.FileSystem | None = None) -> Path:
    """Brings a bundle from `s3://bucket/prefix` to a folder of this machine; one that is there and sound stays.

    Args:
        address: Of the bundle.
        sha256: The digest that it must have.
        target: The folder that it becomes.
        store: The object store; by default the one that the environment describes.

    Returns:
        `target`.

    Raises:
        BundleError: What is there is no sound bundle, or another one.
        ServiceError: The store does not answer, or refuses.
        EnvironmentProblemError: The folder cannot be written.
    """

    def copy(folder: Path) -> None:
        place = _place(address)
        source = store or object_store()
        found = source.get_file_info(pafs.FileSelector(place, recursive=True, allow_not_found=True))
        for entry in found:
            if entry.type != pafs.FileType.File:
                continue
            path = folder / posixpath.relpath(entry.path, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open_input_stream(entry.path) as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 22)

    return _bring(copy, address, sha256, target)


def fetch_from_mlflow(client: Any, name: str, version: str, sha256: str, target: Path) -> Path:
    """Brings the copy that an MLflow server keeps of a version to a folder of this machine, as `fetch_bundle` does.

    Args:
        client: An MlflowClient of the server.
        name: The registered model.
        version: Its version.
        sha256: The digest that the bundle must have.
        target: The folder that it becomes.
    """

    def copy(folder: Path) -> None:
        from mlflow.artifacts import download_artifacts

        address = client.get_model_version_download_uri(name, version)
        made = download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=client.tracking_uri)
        if Path(made) != folder:
            # It comes as a folder named like the artifact.
            for path in Path(made).iterdir():
                path.rename(folder / path.name)
            shutil.rmtree(made)

    return _bring(copy, f"{name} version {version}", sha256, target)


def _bring(copy: Callable[[Path], None], where: str, sha256: str, target: Path) -> Path:
    if _digest(target) == sha256:
        return target
    incoming = target.with_name(f".incoming-{target.name}-{os.getpid()}")
    try:
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        _copied(copy, incoming, where)
        found = bundle_digest(read_bundle(incoming))
        if found != sha256:
            raise BundleError(
                f"it is another bundle than the registry recorded: {found[:DIGITS]}, not {sha256[:DIGITS]}",
                where=where,
                remedy="Do not serve it: register the model again.",
            )
        if target.exists():
            shutil.rmtree(target)
        incoming.rename(target)
    except OSError as error:
        raise EnvironmentProblemError(
            f"the bundle could not be written ({error.strerror or error})",
            where=str(target),
            remedy="Free space or change the rights of the folder, then run the command again.",
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return target


def _copied(copy: Callable[[Path], None], folder: Path, where: str) -> None:
    try:
        copy(folder)
    except OSError as error:
        if error.filename is not None:
            # A file of this machine, not the store's answer.
            raise
        raise ServiceError(f"the bundle could not be fetched ({error})", where=where, remedy=_REMEDY) from error


def _digest(directory: Path) -> str | None:
    try:
        return bundle_digest(read_bundle(directory))
    except BundleError:
        return None


def _has(store: pafs.FileSystem, path: str, content: bytes) -> bool:
    if store.get_file_info(path).type != pafs.FileType.File:
        return False
    with store.open_input_stream(path) as stream:
        return bool(stream.read() == content)


def _place(address: str) -> str:
    if not address.startswith(S3):
        raise BundleError("it is no address of a bundle", where=address, remedy="Write it as s3://bucket/prefix.")
    return address.removeprefix(S3).rstrip("/")
