"""Takes one person out of captured events: out of a row, and out of the parts on disk.

A row may be about several users: only the person's answer goes, and the feedback on items that nobody else was shown.
Parts are replaced one by one, each whole or not at all, and keep their time, by which old ones are removed. What is cut
off in the middle is finished by the same call again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from slipway.contracts.errors import ArtifactError
from slipway.contracts.events import CLICK
from slipway.contracts.files import write_atomically

Row = dict[str, Any]
Gone = dict[str, frozenset[str] | None]
"""Request ids that the person had an answer in -> items of which feedback goes; None: all of it."""


@dataclass(frozen=True)
class Forgotten:
    """What of a person one part held: rows that go, and rows that stay for others, without the person."""

    path: Path
    removed: int
    changed: int


def without_user(row: Row, user: str) -> Row | None:
    """Returns a joined request without a user: the row itself where it is not theirs, None where it was theirs alone.

    Args:
        row: As a line of the captured data holds it; not changed.
        user: As events hold it, hashed.
    """
    entities = row["prediction"]["data"]["entities"]
    left = [entity for entity in entities if entity["user"] != user]
    if len(left) == len(entities):
        return row
    if not left:
        return None
    shown = {item for entity in left for item in entity["items"]}
    prediction = row["prediction"]
    feedback = [event for event in row["feedback"] if event["data"]["item"] in shown]
    return {
        "prediction": prediction | {"data": prediction["data"] | {"entities": left}},
        "feedback": feedback,
        "clicked": any(event["data"]["type"] == CLICK for event in feedback),
    }


def forget_in_parts(directory: Path, user: str, *, removes: bool, gone: Gone | None = None) -> list[Forgotten]:
    """Returns what the parts of a folder hold of a user, and takes it out.

    Args:
        directory: Where captured events lie.
        user: As events hold it, hashed.
        removes: Else only look.
        gone: Requests that are known to be theirs besides those on disk.

    Raises:
        ArtifactError: A part cannot be read.
        EnvironmentProblemError: A part cannot be written.
    """
    joined = sorted((directory / "joined").glob("*/part-*.jsonl"))
    own = [path for path in joined if user.encode() in _bytes(path)]
    theirs = dict(gone or {})
    for path in own:
        for row in _rows(path):
            theirs |= gone_with(row, user)
    found = []
    # What came late names the request and nobody: it goes first, since afterwards nothing says whose it was.
    if theirs:
        for path in sorted((directory / "late").glob("*/part-*.jsonl")):
            found.append(_rewrite(path, lambda row: None if came_late(row, theirs) else row, removes=removes))
    for path in own:
        found.append(_rewrite(path, lambda row: without_user(row, user), removes=removes))
    return [one for one in found if one.removed or one.changed]


def gone_with(row: Row, user: str) -> Gone:
    """Returns which late feedback goes with a joined request, where a user is in it."""
    left = without_user(row, user)
    if left is row:
        return {}
    request = row["prediction"]["data"]["request_id"]
    if left is None:
        return {request: None}
    shown = {item for entity in left["prediction"]["data"]["entities"] for item in entity["items"]}
    own = (entity for entity in row["prediction"]["data"]["entities"] if entity["user"] == user)
    return {request: frozenset(item for entity in own for item in entity["items"] if item not in shown)}


def came_late(row: Mapping[str, Any], gone: Gone) -> bool:
    """Returns whether a piece of late feedback is to a request that has gone, or to items that went from one."""
    request, item = row["data"]["request_id"], row["data"]["item"]
    if request not in gone:
        return False
    items = gone[request]
    return items is None or item in items


def _rewrite(path: Path, keep: Callable[[Row], Row | None], *, removes: bool) -> Forgotten:
    lines, removed, changed = [], 0, 0
    for row in _rows(path):
        left = keep(row)
        removed += left is None
        changed += left is not None and left is not row
        if left is not None:
            lines.append(orjson.dumps(left))
    if removes and not lines:
        path.unlink(missing_ok=True)
    elif removes and (removed or changed):
        modified = path.stat().st_mtime_ns
        write_atomically(path, b"\n".join(lines) + b"\n", mode=0o600, modified_ns=modified)
    return Forgotten(path, removed, changed)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # removed by age meanwhile
        return b""


def _rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ArtifactError(
                f"line {number} is not JSON ({error})",
                where=str(path),
                remedy="Remove the line or the file; then run it again.",
            ) from error
