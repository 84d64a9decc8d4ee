"""The report's pictures, as SVG text that stands in the page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b2733", "#66727f", "#e3e7eb"
BLUE, ORANGE, GREEN, RED = "#1f6fb2", "#c8641b", "#2b8a4b", "#b3262e"
OUTCOME_COLOURS = {"PASS": GREEN, "FAIL": RED, "INCONCLUSIVE": MUTED, "ERROR": ORANGE}

Line = Mapping[str, Any]


@contextmanager
def _figure(rows: int, height: float, ratios: Sequence[float] | None = None) -> Iterator[tuple[Figure, list[Axes]]]:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    style = {
        "font.size": 9.5, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "slipway",
        "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "text.color": INK,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            rows, 1, figsize=(7.6, height), sharex=rows > 1, squeeze=False, layout="constrained",
            gridspec_kw={"height_ratios": ratios} if ratios else None,
        )  # fmt: skip
        yield figure, [row[0] for row in axes]
        plt.close(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def training_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Draws the training loss by epoch; `curves` is {version: [{"epoch": 1, "loss": ...}, ...]}."""
    from matplotlib.ticker import MaxNLocator

    with _figure(1, 2.8) as (figure, (axes,)):
        for (name, points), colour in zip(curves.items(), (BLUE, ORANGE, GREEN, RED), strict=False):
            key = next(iter([key for key in points[0] if key != "epoch"]), "loss") if points else "loss"
            key = "loss" if points and "loss" in points[0] else key
            axes.plot(
                [point["epoch"] for point in points],
                [point[key] for point in points],
                marker="o",
                markersize=3,
                color=colour,
                label=name,
            )
        axes.set(xlabel="epoch", ylabel="training loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        return _svg(figure)


def metric_bars(metric: str, rows: Sequence[tuple[str, float, float | None, float | None]]) -> str:
    """Draws one metric for several models with its intervals; a row is (name, value, low, high)."""
    with _figure(1, 0.7 + 0.42 * len(rows)) as (figure, (axes,)):
        for position, (name, value, low, high) in enumerate(reversed(rows)):
            colour = MUTED if name == "popularity" else BLUE
            axes.barh(position, value, color=colour, height=0.6, alpha=0.85)
            if low is not None and high is not None:
                axes.plot([low, high], [position, position], color=INK, linewidth=1.4)
            axes.annotate(
                f"{value:.4f}",
                (max(value, high or 0), position),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=INK,
            )
        axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
        axes.set_xlim(0, 1.2 * max(max(row[1], row[3] or 0) for row in rows))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(metric)
        return _svg(figure)


def rollout_timeline(lines: Sequence[Line], candidate: str) -> str:
    """Draws a rollout's history: the candidate's weight, and each guardrail's bounds against its margin."""
    looks = [line for line in lines if line["type"] == "verdicts"]
    if not looks:
        return ""
    events = [line for line in lines if line["type"] == "event"]
    begin = min(line["at"] for line in lines)
    end = max(line["at"] for line in lines) - begin
    compared = any(verdict["stable_samples"] for look in looks for verdict in look["verdicts"])
    names = [verdict["guardrail"] for verdict in looks[-1]["verdicts"]] if compared else []
    with _figure(1 + len(names), 1.7 + 1.35 * len(names), [1.3, *[1.0] * len(names)]) as (figure, axes):
        times = [look["at"] - begin for look in looks]
        weights = [look["weights"].get(candidate, 0) for look in looks]
        final = _final_weight(events, weights[-1])
        axes[0].step([0, *times, end], [0, *weights, final], where="post", color=BLUE, linewidth=2)
        axes[0].fill_between([0, *times, end], [0, *weights, final], step="post", color=BLUE, alpha=0.12)
        axes[0].set(ylim=(0, 108), ylabel="% of traffic", yticks=[0, 25, 50, 100])
        for axis, name in zip(axes[1:], names, strict=True):
            _guardrail(axis, name, looks, begin)
        axes[-1].set(xlim=(0, end), xlabel="seconds since the start of the rollout")
        return _svg(figure)


def _final_weight(events: Sequence[Line], last: int) -> int:
    text = " ".join(f"{event['kind']} {event['message']}" for event in events)
    if "RolledBack" in text:
        return 0
    return 100 if "Promoted" in text else last


def _guardrail(axis: Axes, name: str, looks: Sequence[Line], begin: float) -> None:
    points = [
        (look["at"] - begin, verdict) for look in looks for verdict in look["verdicts"] if verdict["guardrail"] == name
    ]
    # A guardrail with two margins is shown in the measure that it ended with.
    measure = points[-1][1]["measure"]
    points = [(time, verdict) for time, verdict in points if verdict["measure"] == measure]
    ratio = "odds" in measure
    low, high = (0.02, 50.0) if ratio else _difference_range([verdict for _, verdict in points])
    times = [time for time, _ in points]

    def clipped(field: str, otherwise: float) -> list[float]:
        return [min(high, max(low, otherwise if verdict[field] is None else verdict[field])) for _, verdict in points]

    axis.fill_between(times, clipped("lower", low), clipped("upper", high), color=BLUE, alpha=0.18, step="post")
    known = [(time, min(high, max(low, verdict["value"]))) for time, verdict in points if verdict["value"] is not None]
    if known:
        axis.plot(*zip(*known, strict=True), color=BLUE, linewidth=1.2)
    margins = [verdict["margin"] for _, verdict in points if verdict["margin"] is not None]
    if margins:
        axis.axhline(margins[-1], color=RED, linewidth=1, linestyle="--")
    base = low if not ratio else low * 1.25
    for outcome, colour in OUTCOME_COLOURS.items():
        at = [time for time, verdict in points if verdict["outcome"] == outcome]
        axis.plot(at, [base] * len(at), linestyle="", marker="s", markersize=3.5, color=colour)
    if ratio:
        axis.set_yscale("log")
        axis.set(ylim=(low, high), yticks=[0.1, 1, 10], yticklabels=["0.1", "1", "10"])
        axis.minorticks_off()
    else:
        axis.set_ylim(low, high)
    axis.set_title(f"{name}: {measure.replace('_', ' ')}", loc="left", fontsize=9.5, color=INK)


def _difference_range(verdicts: Sequence[Line]) -> tuple[float, float]:
    """Returns a range in which margin and the typical bounds can be read; the first looks of a step reach beyond it."""
    margin = max((verdict["margin"] for verdict in verdicts if verdict["margin"] is not None), default=0.0)
    bounds = sorted(
        abs(verdict[side]) for verdict in verdicts for side in ("lower", "upper") if verdict[side] is not None
    )
    limit = min(1.0, max(4 * margin, 1.5 * bounds[len(bounds) // 2] if bounds else 0.0, 0.02))
    return -limit, limit


def latency(visits: Sequence[Line]) -> str:
    """Draws what visitors waited: the 95th percentile of each second, by version."""
    begin = min(row["second"] for row in visits)
    with _figure(1, 2.8) as (figure, (axes,)):
        versions = sorted({row["version"] for row in visits if row["version"] != "none"})
        for version, colour in zip(versions, (BLUE, GREEN, RED, ORANGE, MUTED), strict=False):
            rows = [row for row in visits if row["version"] == version and row["p95_ms"] is not None]
            axes.plot(
                [row["second"] - begin for row in rows],
                [row["p95_ms"] for row in rows],
                color=colour,
                marker=".",
                markersize=3,
                linewidth=1,
                label=f"version {version}",
            )
        axes.set(xlabel="seconds since the first visit", ylabel="95th percentile, ms", yscale="log")
        axes.legend(frameon=False, ncols=4)
        return _svg(figure)
