"""Logs of processes that write to an inherited file: rotated by copy and truncation, read back in order."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK = 1 << 16


def rotate(path: Path, *, maximum_bytes: int, backups: int) -> bool:
    """Moves a log that is too large aside; returns whether it did.

    The writer holds the file open for appending and may outlive its supervisor, so the content is copied away and the
    file truncated in place. Lines written between the two are lost, and nothing else.
    """
    try:
        if path.stat().st_size <= maximum_bytes:
            return False
        for number in range(backups - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        with path.open("r+b") as handle:
            handle.truncate(0)
    except OSError:
        # A full disk must not stop the supervisor; the log is cut all the same, or it would fill the disk further.
        with contextlib.suppress(OSError), path.open("r+b") as handle:
            handle.truncate(0)
    return True


def last_lines(path: Path, count: int) -> list[str]:
    """Returns the last `count` lines of a log, read from its end; none when there is no log."""
    try:
        with path.open("rb") as handle:
            position = handle.seek(0, 2)
            data = b""
            while position > 0 and data.count(b"\n") <= count:
                step = min(_BLOCK, position)
                position -= step
                handle.seek(position)
                data = handle.read(step) + data
    except OSError:
        return []
    lines = data.decode(errors="replace").splitlines()
    return lines[-count:] if count > 0 else []


def follow(paths: list[Path], *, stop: Callable[[], bool], poll_seconds: float = 0.2) -> Iterator[tuple[Path, str]]:
    """Yields lines that are added to the logs from now on, until `stop()`; a truncated log is read from its start."""
    positions = {path: _size(path) for path in paths}
    rest = dict.fromkeys(paths, b"")
    while not stop():
        quiet = True
        for path in paths:
            size = _size(path)
            if size < positions[path]:
                positions[path], rest[path] = 0, b""
            if size > positions[path]:
                quiet = False
                with contextlib.suppress(OSError), path.open("rb") as handle:
                    handle.seek(positions[path])
                    data = rest[path] + handle.read(size - positions[path])
                    positions[path] = size
                    *lines, rest[path] = data.split(b"\n")
                    for line in lines:
                        yield path, line.decode(errors="replace")
        if quiet:
            time.sleep(poll_seconds)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
