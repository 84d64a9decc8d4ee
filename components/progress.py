"""How a step says how far it is, wherever it runs.

    progress.stage("training", total=epochs)
    for epoch in range(epochs):
        ...
        progress.advance()

The base class says nothing, so it serves in tests and as a default. `EventProgress` appends JSON lines that the local
runner follows; `LogProgress` prints a line now and then, for a container's log.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")


class Progress:
    """What a step reports about its work. This class keeps the count and tells nobody."""

    def __init__(self) -> None:
        self.description = ""
        self.completed = 0.0
        self.total: float | None = None

    def stage(self, description: str, total: float | None = None) -> None:
        """Begins a part of the work, of `total` units or of unknown length."""
        self.description, self.completed, self.total = description, 0.0, total
        self._changed(force=True)

    def advance(self, amount: float = 1) -> None:
        """Adds finished units to the current stage."""
        self.update(self.completed + amount)

    def update(self, completed: float) -> None:
        """Sets the finished units of the current stage."""
        self.completed = completed
        self._changed(force=self.total is not None and completed >= self.total)

    def track(self, items: Iterable[Item], description: str, total: float | None = None) -> Iterator[Item]:
        """Yields `items` as a stage of their own, one unit each."""
        self.stage(description, len(items) if total is None and isinstance(items, Sized) else total)
        for item in items:
            yield item
            self.advance()

    def note(self, message: str) -> None:
        """Tells the user something worth a line: a licence, a warning, a resumed checkpoint."""
        self._emit({"event": "note", "message": message})

    def metric(self, name: str, value: float) -> None:
        """Reports a number as it becomes known; values that are not finite are left out."""
        if math.isfinite(value):
            self._emit({"event": "metric", "name": name, "value": float(value)})

    def _changed(self, *, force: bool) -> None:
        """Called when the count changed; `force` marks the first and last of a stage."""

    def _emit(self, event: dict[str, Any]) -> None:
        """Called with each note and metric."""


class EventProgress(Progress):
    """Appends events to a file as JSON lines, at most ten counts a second; whoever follows the file sees them live."""

    INTERVAL = 0.1

    def __init__(self, path: Path, step: str) -> None:
        super().__init__()
        self.step = step
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._written_at = 0.0

    def event(self, name: str, **fields: Any) -> None:
        """Appends an event of the runner's own vocabulary: started, cached, finished, failed."""
        self._emit({"event": name, **fields})

    def _changed(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._written_at >= self.INTERVAL:
            self._written_at = now
            self._emit(
                {
                    "event": "progress",
                    "description": self.description,
                    "completed": self.completed,
                    "total": self.total,
                }
            )

    def _emit(self, event: dict[str, Any]) -> None:
        line = json.dumps({"step": self.step, "time": time.time(), **event}, default=str)
        # One write of an O_APPEND file: lines of several processes never mix.
        os.write(self._descriptor, line.encode() + b"\n")


class LogProgress(Progress):
    """Prints each stage, note and metric as a line, and the count every few seconds."""

    INTERVAL = 5.0

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream if stream is not None else sys.stderr
        self._written_at = 0.0

    def _changed(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._written_at >= self.INTERVAL:
            self._written_at = now
            share = f" {self.completed:g}/{self.total:g}" if self.total else ""
            print(f"{self.description}{share}", file=self._stream, flush=True)

    def _emit(self, event: dict[str, Any]) -> None:
        text = event["message"] if event["event"] == "note" else f"{event.get('name')} = {event.get('value')}"
        print(text, file=self._stream, flush=True)
