"""Where the features of a sweep lie: a folder, or a prefix of an object store from which each trial takes a copy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from slipway.contracts.artifacts import MANIFEST, read_manifest
from slipway.contracts.errors import ArtifactError, ServiceError
from slipway.models.object_store import S3, object_store


def local_features(place: str, folder: Path) -> Path:
    """Returns the artifact as a folder of this machine; one in an object store is copied to `folder`.

    Raises:
        ArtifactError: It is not whole.
        ServiceError: The object store does not answer, or refuses.
    """
    if not place.startswith(S3):
        return Path(place)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with _answering(place):
        store = object_store()
        prefix = _key(place)
        if store.get_file_info(f"{prefix}/{MANIFEST}").type != pafs.FileType.File:
            raise ArtifactError(
                "no features are there", where=place, remedy="Put them there: slipway tune --cluster does so itself."
            )
        pafs.copy_files(prefix, str(folder), source_filesystem=store, destination_filesystem=pafs.LocalFileSystem())
    read_manifest(folder, kind="features", verify=True)
    return folder


def put_features(folder: Path, place: str) -> None:
    """Copies an artifact into an object store; its manifest comes last, so that a half copy is never read.

    Raises:
        ArtifactError: It is not whole.
        ServiceError: The object store does not answer, or refuses.
    """
    manifest = read_manifest(folder, kind="features", verify=True)
    with _answering(place):
        store, prefix = object_store(), _key(place)
        target = f"{prefix}/{MANIFEST}"
        content = (folder / MANIFEST).read_bytes()
        if store.get_file_info(target).type == pafs.FileType.File:
            with store.open_input_stream(target) as handle:
                if handle.read() == content:
                    return
        for name in (entry.path for entry in manifest.files):
            pafs.copy_files(
                str(folder / name),
                f"{prefix}/{name}",
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=store,
            )
        with store.open_output_stream(target) as handle:
            handle.write(content)


def _key(place: str) -> str:
    parts = urlsplit(place)
    return f"{parts.netloc}/{parts.path.strip('/')}"


@contextlib.contextmanager
def _answering(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceError(
            f"the object store does not answer, or refuses ({str(error)[:300]})",
            where=place,
            remedy="Check AWS_ENDPOINT_URL and the keys; in pods these come from kubernetes.s3.",
        ) from error
