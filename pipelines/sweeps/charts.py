"""The pictures of a sweep, as SVG text that stands in its page: history, importances, parallel coordinates."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slipway.pipelines.sweeps.records import SweepReport, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID = "#1b2733", "#66727f", "#e3e7eb"
_BLUE, _ORANGE, _RED = "#1f6fb2", "#c8641b", "#b3262e"
_WIDTH = 9.2
_FAILED = ("Failed", "MetricsUnavailable")


@contextmanager
def _drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "font.size": 9.5, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "slipway",
        "axes.edgecolor": _GRID, "axes.labelcolor": _MUTED, "xtick.color": _MUTED, "ytick.color": _MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "grid.color": _GRID, "text.color": _INK,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def history(report: SweepReport) -> str:
    """Draws the objective of each trial in the order of their numbers, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    with _drawing(3.0) as (figure, axes):
        groups = (("Succeeded", "succeeded", _BLUE, "o"), ("EarlyStopped", "stopped early", _ORANGE, "v"))
        for status, label, colour, marker in groups:
            rows = [
                (trial.number, trial.value)
                for trial in report.trials
                if trial.status == status and trial.value is not None
            ]
            if rows:
                axes.plot(
                    [number for number, _ in rows], [value for _, value in rows],
                    marker, color=colour, markersize=5, label=label, alpha=0.85,
                )  # fmt: skip
        numbers, bests = _best_so_far(report)
        if numbers:
            axes.step(numbers, bests, where="post", color=_INK, linewidth=1.2, label="best so far")
        for trial in report.trials:
            if trial.status in _FAILED:
                axes.axvline(trial.number, color=_RED, linewidth=1, linestyle=":")
        if any(trial.status in _FAILED for trial in report.trials):
            axes.plot([], [], ":", color=_RED, label="failed")
        if report.baseline is not None and report.baseline.value is not None:
            axes.axhline(report.baseline.value, color=_MUTED, linewidth=1, linestyle="--", label="own parameters")
        axes.set(xlabel="trial", ylabel=report.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, axis="y")
        axes.legend(frameon=False, loc="best", fontsize=8.5)
        return _svg(figure, f"{report.metric} by trial")


def _best_so_far(report: SweepReport) -> tuple[list[int], list[float]]:
    numbers: list[int] = []
    bests: list[float] = []
    for trial in report.trials:
        if trial.status == "Succeeded" and trial.value is not None:
            choose = max if report.maximize else min
            bests.append(choose([*bests[-1:], trial.value]))
            numbers.append(trial.number)
    return numbers, bests


def importances(shares: Mapping[str, float]) -> str:
    """Draws the importance of each parameter, the largest on top."""
    rows = sorted(shares.items(), key=lambda row: row[1])
    with _drawing(0.7 + 0.34 * len(rows)) as (figure, axes):
        axes.barh([name for name, _ in rows], [share for _, share in rows], color=_BLUE, height=0.6, alpha=0.85)
        for position, (_, share) in enumerate(rows):
            axes.annotate(
                f"{share:.0%}", (share, position), (4, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set(xlabel="importance")
        axes.margins(x=0.12)
        return _svg(figure, "importance of each parameter")


def parallel_coordinates(report: SweepReport) -> str:
    """Draws each trial that has a value as a line through its parameters, the better the darker."""
    rows = [
        trial for trial in report.trials if trial.value is not None and trial.status in ("Succeeded", "EarlyStopped")
    ]
    axes_names = [*report.parameters, report.metric]
    scales = [_Scale([_at(trial, name, report.metric) for trial in rows]) for name in axes_names]
    order = sorted(rows, key=lambda trial: trial.value or 0.0, reverse=not report.maximize)
    import matplotlib as mpl

    colours = mpl.colormaps["viridis_r"]
    with _drawing(3.6) as (figure, axes):
        for rank, trial in enumerate(order):
            share = rank / max(len(order) - 1, 1)
            best = report.best is not None and trial.name == report.best.name
            heights = [
                scale.height(_at(trial, name, report.metric)) for scale, name in zip(scales, axes_names, strict=True)
            ]
            axes.plot(
                range(len(axes_names)), heights,
                color=_ORANGE if best else colours(0.15 + 0.8 * share), alpha=1.0 if best else 0.7,
                linewidth=2.6 if best else 1.2, zorder=3 if best else 2,
            )  # fmt: skip
        for position, scale in enumerate(scales):
            axes.axvline(position, color=_MUTED, linewidth=0.8, zorder=1)
            for height, label in scale.labels():
                axes.annotate(
                    label, (position, height), (4, 0), textcoords="offset points", va="center", fontsize=8, color=_INK,
                    zorder=4, bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
                )  # fmt: skip
        axes.set_xticks(range(len(axes_names)), axes_names, color=_INK)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xlim(-0.15, len(axes_names) - 0.45)
        return _svg(figure, "parallel coordinates of the trials, the best in orange")


def _at(trial: TrialRecord, name: str, metric: str) -> Any:
    return trial.value if name == metric and name not in trial.parameters else trial.parameters[name]


class _Scale:
    """Places values of one axis between 0 and 1: by logarithm where they span decades, in order where they are text."""

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        self._names = [] if len(numbers) == len(values) else sorted({str(value) for value in values})
        self._low, self._high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        self._log = bool(numbers) and self._low > 0 and self._high / self._low >= 20

    def height(self, value: Any) -> float:
        if self._names:
            return self._names.index(str(value)) / max(len(self._names) - 1, 1)
        low, high, value = (
            (math.log(self._low), math.log(self._high), math.log(value))
            if self._log
            else (self._low, self._high, value)
        )
        return 0.5 if high == low else float((value - low) / (high - low))

    def labels(self) -> list[tuple[float, str]]:
        if self._names:
            return [(self.height(name), name) for name in self._names]
        ends = dict.fromkeys((self._low, self._high))
        return [(self.height(end), f"{end:.4g}") for end in ends]
