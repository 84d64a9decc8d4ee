"""How a run looks while it goes on: moving bars on a terminal, one line a step elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from slipway.cli.output import console, format_value
from slipway.pipelines.runners.job import RunReport

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.progress import Progress, TaskID

KEY_NUMBERS = 4
_STATUS = {"ran": "green", "cached": "cyan", "failed": "red", "skipped": "dim"}


class RunDisplay:
    """Shows the events of a run; use it as a context, and pass its `observe` to the runner."""

    def __init__(self, steps: Sequence[str]) -> None:
        self._steps = steps
        self._console: Console = console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    @contextlib.contextmanager
    def shown(self) -> Iterator[RunDisplay]:
        """Shows bars for the block, on a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[step]:<10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        with self._bars:
            for step in self._steps:
                self._tasks[step] = self._bars.add_task("", step=step, start=False, total=None)
            yield self

    def observe(self, event: dict[str, Any]) -> None:
        """Shows one event of a step."""
        step, kind = event["step"], event["event"]
        if self._bars is not None and step in self._tasks:
            self._move(self._bars, self._tasks[step], event)
        elif kind == "started":
            self._console.print(f"{step}: started")
        if kind == "note":
            self._console.print(f"{step}: {event['message']}", markup=False)
        elif kind == "finished" and self._bars is None:
            self._console.print(f"{step}: done in {event['seconds']:.1f} s")
        elif kind == "cached" and self._bars is None:
            self._console.print(f"{step}: unchanged, taken from the cache")
        elif kind == "failed":
            again = "" if event.get("final") else " (it is tried again if the project file allows)"
            first_line = event["error"]["what"].partition("\n")[0].rstrip(":")
            self._console.print(f"{step}: failed: {first_line}{again}", markup=False)

    def _move(self, bars: Progress, task: TaskID, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "started":
            bars.reset(task, start=True, total=None, description="")
        elif kind == "progress":
            total = event["total"]
            count = f" {event['completed']:,.0f}/{total:,.0f}" if total else ""
            bars.update(
                task, total=total or None, completed=event["completed"], description=event["description"] + count
            )
        elif kind in ("finished", "cached", "failed"):
            text = {"finished": "[green]done", "cached": "[cyan]from the cache", "failed": "[red]failed"}[kind]
            completed = 0 if kind == "failed" else 1
            bars.update(task, total=1, completed=completed, description=text)
            bars.stop_task(task)


def summary(report: RunReport) -> Group:
    """Returns what ends a run: a line, and a table of step, status, seconds, output and key numbers."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    base = report.directory.parents[2]
    folder = report.directory.relative_to(base) if report.directory.is_relative_to(base) else report.directory
    headline = f"run {report.run_id}: {report.status} in {report.seconds or 0:.1f} s; outputs are in {folder}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("step", "left"), ("status", "left"), ("seconds", "right"), ("output", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("numbers", overflow="fold")
    for step in report.steps:
        outputs = [str(path.relative_to(report.directory)) for path in step.outputs.values()]
        table.add_row(
            step.step,
            f"[{_STATUS[step.status]}]{step.status}[/]",
            "-" if step.seconds is None else f"{step.seconds:.1f}",
            "\n".join(outputs) or "-",
            key_numbers(step.metrics) or "-",
        )
    return Group(Text(headline, overflow="fold"), table)


def key_numbers(metrics: dict[str, float]) -> str:
    """Returns the first numbers of a step as text; the step names its most telling ones first."""
    shown = [f"{name} {format_value(_whole(value))}" for name, value in list(metrics.items())[:KEY_NUMBERS]]
    return ", ".join(shown)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) and abs(value) < 1e15 else value
