"""The file in which another process says how users are assigned, read again whenever it changes.

    {"salt": "...", "layer": "films", "arms": {"films-v1": 50, "films-v2": 50}, "stable": "films-v1"}

`stable` may be left out. The writer replaces the file by renaming, so that it is never read in the middle.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import orjson

from slipway.contracts.errors import SlipwayError, UsageError
from slipway.serving.router.assignment import Assignment

_LOGGER = logging.getLogger(__name__)
_FIELDS = frozenset({"salt", "layer", "arms", "stable"})
_LARGEST = 1 << 20
_REMEDY = 'Write {"salt": "...", "layer": "...", "arms": {"films-v1": 50, "films-v2": 50}}.'


def parse_assignment(content: bytes) -> Assignment:
    """Returns the assignment that a file's content describes.

    Raises:
        UsageError: It describes none; says why.
    """
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"it is not JSON ({error})", remedy=_REMEDY) from None
    if not isinstance(document, dict):
        raise UsageError("it is not a JSON object", remedy=_REMEDY)
    missing = {"salt", "layer", "arms"} - document.keys()
    unknown = document.keys() - _FIELDS
    if missing or unknown:
        what = f"the field {min(missing)!r} is missing" if missing else f"the field {min(unknown)!r} is unknown"
        raise UsageError(what, remedy=_REMEDY)
    salt, layer, arms, stable = document["salt"], document["layer"], document["arms"], document.get("stable")
    if not isinstance(salt, str) or not salt or not isinstance(layer, str) or not layer:
        raise UsageError("salt and layer must be texts that are not empty", remedy=_REMEDY)
    if not isinstance(arms, dict) or not (stable is None or isinstance(stable, str)):
        raise UsageError("arms must be an object of weights, and stable the name of one of them", remedy=_REMEDY)
    return Assignment(salt, layer, arms, stable)


class AssignmentFile:
    """Keeps the last assignment that could be read; a broken or absent file is logged once, and changes nothing.

    Args:
        path: The file.

    Attributes:
        current: What is in force; None until a file could be read.
        problem: Why the file as it is now cannot be read, or None.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Any = None
        self.current: Assignment | None = None
        self.problem: str | None = None

    def refresh(self) -> bool:
        """Reads the file if it was replaced since the last call (else costs one `stat`); returns whether users move."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - Path.stat costs three times as much, five times a second
            identity: Any = (status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError as error:
            identity = error.errno
        if identity == self._seen:
            return False
        self._seen = identity
        try:
            assignment = parse_assignment(self._content())
        except (SlipwayError, OSError) as error:
            self.problem = str(error) if isinstance(error, SlipwayError) else str(error.strerror)
            keeps = "the last good one stays in force" if self.current else "waiting for one that can be read"
            _LOGGER.error("assignment file %s: %s; %s", self._path, self.problem, keeps)
            return False
        self.problem = None
        if assignment == self.current:
            return False
        self.current = assignment
        weights = ", ".join(f"{arm} {weight:g} %" for arm, weight in assignment.arms.items())
        _LOGGER.info("layer %s: users go to %s", assignment.layer, weights)
        return True

    def _content(self) -> bytes:
        with self._path.open("rb") as handle:
            content = handle.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UsageError(f"it is larger than {_LARGEST:,} bytes")
        return content
