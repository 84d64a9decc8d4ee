"""What the online side and the Feast registration read of a `features` artifact."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import ArtifactError
from slipway.contracts.features import ViewSchema

VIEWS_FILE = "views.json"
_VIEWS = TypeAdapter(tuple[ViewSchema, ...])


def read_views(artifact: Path) -> tuple[ViewSchema, ...]:
    """Returns the schemas of the views that the artifact has latest values of.

    Raises:
        ArtifactError: This is no features artifact, or views.json cannot be read.
    """
    read_manifest(artifact, kind="features")
    file = artifact / VIEWS_FILE
    try:
        return _VIEWS.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{VIEWS_FILE} cannot be read ({error})", where=str(artifact), remedy="Run featurize again."
        ) from error


def latest_file(artifact: Path, view: ViewSchema) -> Path:
    """Returns the file of a view's latest values."""
    return artifact / f"latest_{view.name}.parquet"
