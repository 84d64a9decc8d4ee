"""The results of a study as one picture: how candidates end, and when, by effect and traffic."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.contracts.errors import UsageError
from slipway.serving.rollout.simulation.cells import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _LINES = "#1b2733", "#66727f", "#e3e7eb"
_COLOURS = ("#1f6fb2", "#c8641b", "#2b8a4b", "#8a4fb0", "#b3262e", "#3f9aa6", "#7d6608")
_GUARDRAIL = re.compile(r"^[a-z][a-z0-9_-]*(?=[+-])")
_SUFFIXES = frozenset({".svg", ".png", ".pdf"})


def check_plot_file(file: Path) -> None:
    """Refuses a file that no picture can be written to.

    Raises:
        UsageError: Its name does not end in .svg, .png or .pdf, or its folder does not exist.
    """
    if file.suffix not in _SUFFIXES:
        raise UsageError("a picture ends in .svg, .png or .pdf", where=str(file))
    if not file.parent.is_dir():
        raise UsageError("there is no such folder", where=str(file.parent))


def draw(cells: Sequence[Cell], file: Path, title: str) -> None:
    """Writes a picture of the cells: a column for each amount of traffic, and along each, effects or kinds of traffic.

    Args:
        cells: Results. Where there are several effects, those on the first kind of traffic are drawn.
        file: Where to.
        title: Line above it.
    """
    import matplotlib as mpl

    mpl.use("svg" if file.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    by_effect = len({cell.effect for cell in cells}) > 1
    drawn = [cell for cell in cells if not by_effect or cell.traffic == cells[0].traffic]
    amounts = sorted({cell.requests_per_second for cell in drawn})
    names = list(dict.fromkeys((cell.method, cell.calibrated) for cell in drawn))
    places = {(cell.traffic, cell.effect): cell.effect if by_effect else cell.traffic for cell in drawn}
    style = {
        "font.size": 8.5, "svg.fonttype": "none", "svg.hashsalt": "slipway", "axes.edgecolor": _LINES,
        "axes.labelcolor": _MUTED, "xtick.color": _MUTED, "ytick.color": _MUTED, "text.color": _INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _LINES,
    }  # fmt: skip
    rows: list[tuple[str, Callable[[Cell], float | None], bool]] = [
        ("taken back", lambda cell: cell.taken_back, False),
        ("minutes to detection\n(median)", lambda cell: _minutes(cell.seconds_to_detection), True),
        ("bad requests served", lambda cell: cell.bad_requests or None, True),
    ]
    rows = [row for row in rows if any(row[1](cell) is not None for cell in drawn)]
    with mpl.rc_context(style):
        figure, grid = plt.subplots(
            len(rows), len(amounts), sharex=True, sharey="row", squeeze=False,
            figsize=(max(6.4, 1.6 + 2.4 * len(amounts)), 1 + 1.8 * len(rows)), layout="constrained",
        )  # fmt: skip
        for column, amount in enumerate(amounts):
            for row, (label, value, logarithmic) in enumerate(rows):
                axes = grid[row][column]
                _lines(axes, [cell for cell in drawn if cell.requests_per_second == amount], list(places), names, value)
                if logarithmic:
                    axes.set_yscale("log")
                if column == 0:
                    axes.set_ylabel(label)
            grid[0][column].set_title(f"{amount:g} requests/s", fontsize=9)
            grid[-1][column].set_xticks(range(len(places)), list(places.values()), rotation=60, ha="right")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
        figure.suptitle(title, fontsize=10)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
        plt.close(figure)


def _lines(
    axes: Axes,
    cells: Sequence[Cell],
    places: list[tuple[str, str]],
    names: list[tuple[str, bool]],
    value: Callable[[Cell], float | None],
) -> None:
    """Draws a line for each method; it breaks where effects on another guardrail begin."""
    kinds = ["".join(_GUARDRAIL.findall(effect)) for _, effect in places]
    groups = [list(group) for _, group in itertools.groupby(range(len(places)), lambda at: kinds[at])]
    for colour, (method, calibrated) in zip(_COLOURS, names, strict=False):
        own = {
            (cell.traffic, cell.effect): value(cell)
            for cell in cells
            if (cell.method, cell.calibrated) == (method, calibrated)
        }
        for index, group in enumerate(groups):
            axes.plot(
                group,
                [math.nan if (found := own.get(places[at])) is None else found for at in group],
                marker="o",
                markersize=3,
                linewidth=1.1,
                color=colour,
                label="" if index else f"{method}, calibrated" if calibrated else method,
            )


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60
