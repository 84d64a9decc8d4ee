"""Which parts of a project's state are old, and which of them nothing refers to any more."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.contracts.project import Project

_ROTATED_LOG = re.compile(r"\.log\.\d+$")
# Half-written folders of a killed process, and nothing else, are named so.
_HALF_WRITTEN = ("runs/*/.*.partial-*", "cache/*/.*.partial-*", "bundles/*/.incoming-*", "bundles/.incoming-*")


@dataclass(frozen=True)
class OldState:
    """One thing that may be removed.

    Attributes:
        kind: run, cache, bundle, log or leftover.
        seconds: Age, from its last change.
    """

    kind: str
    path: Path
    seconds: float
    why: str


def find_old_state(project: Project, *, keep: int, older_than: float, now: float | None = None) -> list[OldState]:
    """Returns what may be removed, oldest first within a kind.

    Never returned: the newest `keep` runs and cache entries of each step, anything younger than `older_than`, any
    bundle that is registered, wanted by the plane or part of a rollout, and any folder that holds what one of these
    refers to.

    Args:
        project: The project.
        keep: How many of the newest to leave, per kind.
        older_than: Seconds; younger things stay.
        now: Unix seconds.

    Raises:
        ServiceError: The registry does not answer, so that nobody knows what is registered.
    """
    moment = time.time() if now is None else now
    state = project.state
    referred = set(referred_paths(project))
    found: list[OldState] = []

    def offer(kind: str, paths: Iterable[Path], spare: int, why: str) -> None:
        aged = sorted(((_changed(path), path) for path in paths), reverse=True)
        for changed, path in reversed(aged[spare:]):
            age = moment - changed
            if age >= older_than and not any(one == path or path in one.parents for one in referred):
                found.append(OldState(kind, path, age, why))

    offer("run", _folders(state / "runs"), keep, f"not among the newest {keep}")
    for step in sorted(_folders(state / "cache")):
        offer("cache", _folders(step), keep, f"not among the newest {keep} of {step.name}")
    for model in sorted(_folders(state / "bundles")):
        offer("bundle", _folders(model), 0, "neither registered nor served")
    logs = state / "serving" / "logs"
    offer("log", (path for path in logs.glob("*") if _ROTATED_LOG.search(path.name)), 0, "rotated")
    offer("leftover", (path for pattern in _HALF_WRITTEN for path in state.glob(pattern)), 0, "half-written")
    return found


def referred_paths(project: Project) -> Iterator[Path]:
    """Yields the folders that something serves, will serve, or may serve again."""
    from slipway.models.registry import registry_for
    from slipway.serving.local.desired import read_desired
    from slipway.serving.local.layout import PlaneLayout

    for arm in read_desired(project.directory).arms:
        yield from _resolved(arm.bundle, arm.features)
    for file in PlaneLayout(project.directory).rollouts.glob("*/arms.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            for content in json.loads(file.read_text()).values():
                yield from _resolved(content.get("bundle"), content.get("features"))
    registry = registry_for(project.directory, project.tracking.uri)
    for name in registry.names():
        for version in registry.list(name):
            yield from _resolved(version.bundle_dir)
            # Lineage tags name folders too, the features that a version is served with among them.
            yield from _resolved(*(value for value in version.tags.values() if value.startswith("/")))


def bytes_freed(old: Sequence[OldState]) -> dict[Path, int]:
    """Returns for each thing the bytes that its removal frees, were all of them removed.

    Runs and cache share files by hard links: a file counts, once, if all of its links would go.
    """
    links: Counter[tuple[int, int]] = Counter()
    files: dict[Path, list[tuple[tuple[int, int], int, int]]] = {}
    for one in old:
        entries = []
        for path in [one.path] if one.path.is_file() else one.path.rglob("*"):
            status = path.lstat()
            if not path.is_dir():
                key = (status.st_dev, status.st_ino)
                links[key] += 1
                entries.append((key, status.st_nlink, status.st_size))
        files[one.path] = entries
    counted: set[tuple[int, int]] = set()
    freed = {}
    for place, entries in files.items():
        freed[place] = 0
        for key, total, size in entries:
            if key not in counted and links[key] >= total:
                counted.add(key)
                freed[place] += size
    return freed


def remove(one: OldState) -> None:
    """Removes one thing; what is gone already is no error."""
    if one.path.is_dir() and not one.path.is_symlink():
        # Renamed first: a removal that is cut off leaves nothing that looks whole.
        doomed = one.path.with_name(f".{one.path.name}.partial-removed")
        shutil.rmtree(doomed, ignore_errors=True)
        one.path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        one.path.unlink(missing_ok=True)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _resolved(*places: str | Path | None) -> Iterator[Path]:
    for place in places:
        if place:
            yield Path(place).resolve()
