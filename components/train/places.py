"""Features from, and the model to, an object store: pods of a TrainJob need share no folder then."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from slipway.contracts.artifacts import MANIFEST, read_manifest
from slipway.contracts.errors import ArtifactError, ServiceError

if TYPE_CHECKING:
    from slipway.components.train.step import TrainRequest

S3 = "s3://"


def _place(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and not value.startswith(S3) else value


Place = Annotated[Path | str, BeforeValidator(_place)]
"""A folder, or `s3://bucket/prefix` as text."""


@contextlib.contextmanager
def on_this_machine(request: TrainRequest) -> Iterator[TrainRequest]:
    """Gives the request with folders of this machine; what the block writes as a model is put where it belongs.

    Raises:
        ArtifactError: The features are not whole.
        ServiceError: The object store does not answer, or refuses.
    """
    features, output = request.features, request.output
    if isinstance(features, Path) and isinstance(output, Path):
        yield request
        return
    with tempfile.TemporaryDirectory(prefix="slipway-train-") as scratch:
        changes = {}
        if isinstance(features, str):
            changes["features"] = _fetch(features, Path(scratch) / "features")
        made = Path(scratch) / "model"
        if isinstance(output, str):
            changes["output"] = made
        yield request.model_copy(update=changes)
        if isinstance(output, str) and made.is_dir():
            from slipway.models.bundle_store import upload_bundle_to_store

            upload_bundle_to_store(made, output)


def _fetch(address: str, folder: Path) -> Path:
    import pyarrow.fs as pafs

    from slipway.models.object_store import object_store

    prefix = address.removeprefix(S3).rstrip("/")
    folder.mkdir()
    try:
        store = object_store()
        if store.get_file_info(f"{prefix}/{MANIFEST}").type != pafs.FileType.File:
            raise ArtifactError("no artifact is there", where=address, remedy="Put a features artifact there.")
        pafs.copy_files(prefix, str(folder), source_filesystem=store, destination_filesystem=pafs.LocalFileSystem())
    except OSError as error:
        raise ServiceError(
            f"the object store does not answer, or refuses ({str(error)[:300]})",
            where=address,
            remedy="Check AWS_ENDPOINT_URL and the keys; in pods these come from kubernetes.s3.",
        ) from error
    read_manifest(folder, kind="features", verify=True)
    return folder
