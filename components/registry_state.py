"""A look into the registry's SQLite database without importing MLflow, which takes seconds.

It only reads, and only what decides whether a step has something to do. Where the database cannot be read as expected
(another MLflow, a server instead of a file), the answer is None and the caller asks the registry itself.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from slipway.contracts.artifacts import fingerprint_of

_SQLITE = "sqlite:///"
_SHA256_TAG = "slipway.bundle_sha256"
_BUNDLE_TAG = "slipway.bundle_dir"


@dataclass(frozen=True)
class KnownVersion:
    """A registered version: its bundle's folder and SHA-256, and the aliases that point at it."""

    version: str
    bundle_dir: Path
    sha256: str
    aliases: tuple[str, ...]


def known_versions(project_directory: Path, tracking_uri: str | None, name: str) -> list[KnownVersion] | None:
    """Returns the versions of a model, oldest first; None if only MLflow can say.

    Args:
        project_directory: Folder of the project file.
        tracking_uri: As the project file names it; None is the project's own database.
        name: The registered model.
    """
    uri = (
        os.path.expandvars(tracking_uri) if tracking_uri else f"{_SQLITE}{project_directory / '.slipway' / 'mlflow.db'}"
    )
    if not uri.startswith(_SQLITE):
        return None
    database = Path(uri.removeprefix(_SQLITE))
    if not database.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
            aliases: dict[str, list[str]] = {}
            query = "SELECT alias, version FROM registered_model_aliases WHERE name = ? ORDER BY alias"
            for alias, version in connection.execute(query, (name,)):
                aliases.setdefault(str(version), []).append(alias)
            tags: dict[str, dict[str, str]] = {}
            query = (
                "SELECT v.version, t.key, t.value FROM model_versions v LEFT JOIN model_version_tags t "
                "ON t.name = v.name AND t.version = v.version "
                "WHERE v.name = ? AND v.current_stage != 'Deleted_Internal' ORDER BY v.version"
            )
            for version, key, value in connection.execute(query, (name,)):
                tags.setdefault(str(version), {})[key] = value
    except sqlite3.Error:
        return None
    return [
        KnownVersion(version, Path(own.get(_BUNDLE_TAG, "")), own.get(_SHA256_TAG, ""), tuple(aliases.get(version, ())))
        for version, own in tags.items()
    ]


def registry_fingerprint(project_directory: Path, tracking_uri: str | None, name: str) -> str | None:
    """Returns the hash of a model's versions, aliases and the presence of their bundles; None if only MLflow knows."""
    versions = known_versions(project_directory, tracking_uri, name)
    if versions is None:
        return None
    rows = [(v.version, v.sha256, v.aliases, str(v.bundle_dir), v.bundle_dir.is_dir()) for v in versions]
    return fingerprint_of({"versions": rows})
