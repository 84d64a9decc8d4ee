"""Captured events on disk: JSON lines in parts by day, each written whole or not at all, removed by age and size."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from slipway.contracts.errors import EnvironmentProblemError
from slipway.contracts.files import write_atomically

logger = logging.getLogger("slipway.capture")


class PartWriter:
    """Collects lines and writes them as <directory>/<kind>/<day>/part-<milliseconds>-<process>-<number>.jsonl.

    Args:
        directory: Where captured data lies.
        kind: Subfolder, e.g. joined.
        rows: Lines of a full part.
        seconds: A part that is not full is written after so long.
        retention_days: Parts older than this are removed.
        maximum_bytes: So are the oldest ones beyond this total.
    """

    def __init__(
        self,
        directory: Path,
        kind: str,
        *,
        rows: int = 5_000,
        seconds: float = 10.0,
        retention_days: float = 30.0,
        maximum_bytes: int = 2 << 30,
    ) -> None:
        self._folder = directory / kind
        self._rows = rows
        self._seconds = seconds
        self._retention = retention_days * 86_400
        self._maximum = maximum_bytes
        self._lines: list[bytes] = []
        self._since = 0.0
        self._number = 0
        self._lock = threading.Lock()

    def add(self, line: bytes, now: float) -> None:
        """Takes one line, without its end. Lines that cannot be written for long are dropped, oldest first."""
        if not self._lines:
            self._since = now
        self._lines.append(line)
        if len(self._lines) > 20 * self._rows:
            logger.error("Captured events are dropped: %s cannot be written", self._folder)
            del self._lines[: self._rows]

    async def edit(self, keep: Callable[[bytes], bytes | None]) -> int:
        """Replaces each line that waits by what `keep` returns, or drops it for None; returns how many were touched.

        Returns when no part is being written any more, so that what is not here lies in a file.
        """
        # Waited for beside the loop, which goes on; edited in it, so that no line is added meanwhile.
        await asyncio.to_thread(self._lock.acquire)
        try:
            kept = [keep(line) for line in self._lines]
            touched = sum(new is not old for new, old in zip(kept, self._lines, strict=True))
            self._lines[:] = [line for line in kept if line is not None]
        finally:
            self._lock.release()
        return touched

    def due(self, now: float) -> bool:
        """Says whether a part should be written."""
        return len(self._lines) >= self._rows or (bool(self._lines) and now - self._since >= self._seconds)

    def flush(self, now: float) -> int:
        """Writes what is there and returns the number of lines; may run in a thread beside `add`."""
        with self._lock:
            lines = self._lines[:]
            if not lines:
                return 0
            self._number += 1
            day = datetime.fromtimestamp(now, UTC).date().isoformat()
            path = self._folder / day / f"part-{int(now * 1000)}-{os.getpid()}-{self._number}.jsonl"
            try:
                write_atomically(path, b"\n".join(lines) + b"\n", mode=0o600)
            except EnvironmentProblemError as error:
                logger.error("Captured events are kept in memory: %s", error)
                self._since = now
                return 0
            del self._lines[: len(lines)]
            self._since = now
            return len(lines)

    def clean(self, now: float | None = None) -> int:
        """Removes parts that are too old or too many, and empty days; returns the number of parts removed."""
        moment = time.time() if now is None else now
        parts = sorted(
            ((entry.stat().st_mtime, entry.stat().st_size, entry) for entry in self._folder.glob("*/part-*.jsonl")),
            reverse=True,
        )
        removed = total = 0
        for modified, size, path in parts:
            total += size
            if moment - modified > self._retention or total > self._maximum:
                path.unlink(missing_ok=True)
                removed += 1
        for day in self._folder.glob("*"):
            if day.is_dir() and not any(day.iterdir()):
                day.rmdir()
        return removed
