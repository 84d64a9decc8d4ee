"""Registered versions as the command line names them: NAME@ALIAS, NAME/VERSION, or the project's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.contracts.errors import UsageError

if TYPE_CHECKING:
    from slipway.contracts.project import Project


@dataclass(frozen=True)
class NamedVersion:
    """A registered version and its bundle."""

    name: str
    version: str
    bundle_dir: Path
    sha256: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def label(self) -> str:
        """The version in one word: `films/3`."""
        return f"{self.name}/{self.version}"


def versions_of(project: Project, name: str) -> list[NamedVersion]:
    """Returns the versions of a model, oldest first.

    Raises:
        ServiceError: MLflow does not answer.
    """
    from slipway.components.registry_state import known_versions

    known = known_versions(project.directory, project.tracking.uri, name)
    if known is not None:
        return [NamedVersion(name, v.version, v.bundle_dir, v.sha256, v.aliases, v.tags) for v in known]
    from slipway.models.registry import registry_for

    registry = registry_for(project.directory, project.tracking.uri)
    return [NamedVersion(name, v.version, v.bundle_dir, v.sha256, v.aliases, v.tags) for v in registry.list(name)]


def find_version(project: Project, text: str | None) -> NamedVersion:
    """Returns the version that a text names.

    Args:
        project: Whose registry is asked; its name stands where the text has none.
        text: NAME@ALIAS, NAME/VERSION, @ALIAS, ALIAS, VERSION, NAME (its champion, else its newest version), or None
            for the project's own model.

    Raises:
        UsageError: There is no such version.
        ServiceError: MLflow does not answer.
    """
    name, wanted = _parse(text or "", project.name)
    versions = versions_of(project, name)
    if not versions and wanted is None and text:
        # A bare word is a version or an alias of the project's model if it is no model.
        name, wanted = project.name, text
        versions = versions_of(project, name)
    if not versions:
        raise UsageError(
            f"no model {name!r} is registered", where=str(project.directory), remedy="Register one with: slipway run"
        )
    if wanted is None:
        return next((version for version in versions if "champion" in version.aliases), versions[-1])
    for version in versions:
        if wanted == version.version or wanted in version.aliases:
            return version
    known = [v.version + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in versions]
    raise UsageError(f"{name} has no version or alias {wanted!r}", remedy=f"It has: {', '.join(known)}.")


def bundle_of(project: Project, version: NamedVersion) -> Path:
    """Returns the folder of a version's bundle, which is fetched if it is not on this machine.

    Raises:
        BundleError: What was fetched is not the bundle that was registered.
        ServiceError: The object store or MLflow does not answer.
    """
    if version.bundle_dir.is_dir():
        return version.bundle_dir
    from slipway.models.registry import registry_for

    registry = registry_for(project.directory, project.tracking.uri)
    return registry.with_bundle(registry.get(version.name, version.version)).bundle_dir


def _parse(text: str, default: str) -> tuple[str, str | None]:
    for separator in ("@", "/"):
        name, found, wanted = text.rpartition(separator)
        if found:
            if not wanted:
                raise UsageError(f"{text!r} names no version", remedy="Write NAME@ALIAS or NAME/VERSION.")
            return name or default, wanted
    return (text or default), None
