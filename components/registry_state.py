"""A look into the registry's SQLite database without importing MLflow, which takes seconds.

It only reads, and only what decides whether a step has something to do. Where the database cannot be read as expected
(another MLflow, a server instead of a file), the answer is None and the caller asks the registry itself.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from slipway.contracts.artifacts import fingerprint_of

_SQLITE = "sqlite:///"
_SHA256_TAG = "slipway.bundle_sha256"
_BUNDLE_TAG = "slipway.bundle_dir"
_URI_TAG = "slipway.bundle_uri"


@dataclass(frozen=True)
class KnownVersion:
    """A registered version: its bundle's folder and SHA-256, and the aliases that point at it.

    `bundle_uri` is the bundle's address in an object store, if it has one. `tags` are all that the registry knows.
    """

    version: str
    bundle_dir: Path
    sha256: str
    aliases: tuple[str, ...]
    bundle_uri: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def place(self) -> str:
        """Where a step finds the bundle: its address, or its folder."""
        return self.bundle_uri or str(self.bundle_dir)


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
        KnownVersion(
            version,
            _folder(project_directory, name, own),
            own.get(_SHA256_TAG, ""),
            tuple(aliases.get(version, ())),
            own.get(_URI_TAG) or None,
            own,
        )
        for version, own in tags.items()
    ]


def _folder(project_directory: Path, name: str, tags: dict[str, str]) -> Path:
    if _BUNDLE_TAG not in tags and tags.get(_URI_TAG):
        # Where the registry puts what it fetches.
        return project_directory / ".slipway" / "bundles" / name / tags.get(_SHA256_TAG, "")[:12]
    return Path(tags.get(_BUNDLE_TAG, ""))


def registry_fingerprint(project_directory: Path, tracking_uri: str | None, name: str) -> str | None:
    """Returns the hash of a model's versions, aliases and the presence of their bundles; None if only MLflow knows."""
    versions = known_versions(project_directory, tracking_uri, name)
    if versions is None:
        return None
    rows = [
        (v.version, v.sha256, v.aliases, v.place, v.bundle_uri is not None or v.bundle_dir.is_dir()) for v in versions
    ]
    return fingerprint_of({"versions": rows})
