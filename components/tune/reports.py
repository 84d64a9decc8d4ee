"""What a trial tells whoever runs the sweep: its objective after each epoch, its metrics, and why it failed.

Katib's collector orders reports by the time that stands before them; lines without one count as older than all others,
in no order.
"""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path

from slipway.components.harness import ERROR_FILE
from slipway.components.progress import Progress

REASON_LENGTH = 1000


def report_line(name: str, value: float) -> str:
    """Returns a metric as Katib's collector reads it from a trial's output: time, name=value."""
    return f"{datetime.now(UTC).isoformat(timespec='microseconds').replace('+00:00', 'Z')} {name}={value!r}"


class WithoutMetrics(Progress):
    """Passes stages and notes on, and no metrics: each line with the objective would count as one more report."""

    def __init__(self, inner: Progress) -> None:
        super().__init__()
        self._inner = inner

    def stage(self, description: str, total: float | None = None) -> None:
        self._inner.stage(description, total)

    def update(self, completed: float) -> None:
        self._inner.update(completed)

    def advance(self, amount: float = 1) -> None:
        self._inner.advance(amount)

    def note(self, message: str) -> None:
        self._inner.note(message)


class ObjectiveReports(WithoutMetrics):
    """Prints each value of the objective as a report, and passes other metrics on."""

    def __init__(self, inner: Progress, objective: str) -> None:
        super().__init__(inner)
        self._objective = objective

    def metric(self, name: str, value: float) -> None:
        if name != self._objective:
            self._inner.metric(name, value)
        elif math.isfinite(value):
            print(report_line(name, value), flush=True)


def tell_reason(outcome: Path, target: Path) -> None:
    """Writes why a trial failed to where its pod is asked for it; nothing depends on whether that works.

    Args:
        outcome: Folder with error.json.
        target: The file.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        problem = json.loads((outcome / ERROR_FILE).read_text())
        where = problem.get("where")
        # That it was a trial is plain.
        named = where is not None and where != "step tune"
        target.write_text(f"{where}: {problem['what']}"[:REASON_LENGTH] if named else str(problem["what"]))
