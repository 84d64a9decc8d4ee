"""Which image a step runs in: by digest where one is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway import __version__
from slipway.contracts.errors import UsageError
from slipway.contracts.project import Project
from slipway.contracts.project.kubernetes import CLUSTER_STEPS, ClusterStep, ImageSpec

DEFAULT_REGISTRY = "ghcr.io/slipway"

# Steps that have no image of their own, and the step whose image holds everything that they import.
SHARED: Mapping[ClusterStep, ClusterStep] = {
    "observe": "register",
    "extract": "validate",
    "notify": "validate",
    "submit": "validate",
    "release": "register",
}


def image_references(project: Project) -> dict[ClusterStep, str]:
    """Returns the image of each kind of step, `repository@digest`, or `repository:tag` where no digest is known.

    Raises:
        UsageError: The list of images cannot be read.
    """
    listed = _listed(project)
    return {step: _reference(project, step, listed) for step in CLUSTER_STEPS}


def unpinned(references: Mapping[ClusterStep, str], steps: tuple[ClusterStep, ...]) -> list[ClusterStep]:
    """Returns the steps among `steps` whose image is not named by digest."""
    return [step for step in steps if "@sha256:" not in references[step]]


def _reference(project: Project, step: ClusterStep, listed: Mapping[str, ImageSpec]) -> str:
    spec = project.kubernetes.images
    own = spec.steps.get(step)
    shared = SHARED.get(step)
    known = _find(listed, step) or (_find(listed, shared) if shared is not None else None)
    other = spec.steps.get(shared) if shared is not None and known is None else None
    repository = next(
        (image.repository for image in (own, known, other) if image is not None and image.repository is not None),
        f"{spec.registry or DEFAULT_REGISTRY}/slipway-{(shared or step).replace('_', '-')}",
    )
    # A digest belongs to the repository that it was pushed to: the first entry that pins anything decides.
    pinned = next((image for image in (own, known, other) if image is not None and (image.digest or image.tag)), None)
    if pinned is not None and pinned.digest is not None:
        return f"{repository}@{pinned.digest}"
    return f"{repository}:{pinned.tag if pinned is not None else __version__}"


def _find(listed: Mapping[str, ImageSpec], step: str) -> ImageSpec | None:
    names = (step, step.replace("_", "-"), f"slipway-{step.replace('_', '-')}")
    return next((listed[name] for name in names if name in listed), None)


def _listed(project: Project) -> dict[str, ImageSpec]:
    spec = project.kubernetes.images
    if spec.file is None:
        return {}
    file = project.directory / spec.file
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        entries = content.get("images", content)
        rows = entries.items() if isinstance(entries, dict) else ((entry["name"], entry) for entry in entries)
        return {name: _entry(entry, spec.registry) for name, entry in rows if isinstance(entry, dict)}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"the list of images cannot be read ({error})",
            where=str(Path(spec.file)),
            remedy="Make it with: make images. Or remove kubernetes.images.file.",
        ) from error


def _entry(entry: Mapping[str, Any], registry: str | None) -> ImageSpec:
    repository = entry.get("repository")
    if repository is not None and registry is not None:
        # The list names where the images were built; they were pushed under the same last name.
        repository = f"{registry}/{repository.rpartition('/')[2]}"
    digest = entry.get("digest") or None
    return ImageSpec(repository=repository, digest=digest, tag=entry.get("tag") or None)
