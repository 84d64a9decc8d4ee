"""`slipway simulate`: what a policy would do with candidates whose truth is known."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.errors import UsageError

if TYPE_CHECKING:
    from slipway.contracts.rollout import RolloutPolicy
    from slipway.serving.rollout.simulation.cells import Cell

_COLUMNS = (
    "method", "traffic", "requests/s", "effect", "odds ratio", "harmful", "taken back", "promoted", "not in time",
    "other", "detected after", "slowest tenth", "promoted after", "bad requests",
)  # fmt: skip


@click.command(
    epilog="\b\nExamples:\n"
    "  slipway simulate                                    the policy of slipway.yaml, a few minutes\n"
    "  slipway simulate --preset standard --rate 100 --effect none --effect errors+2 --effect clicks-10%\n"
    "  slipway simulate --rate 50 --traffic diurnal --traffic bad-minutes --base clicks=0.03\n"
    "  slipway simulate --compare --calibrate --plot study.svg   beside Flagger, Argo Rollouts and a z-test\n"
    "  slipway simulate --set rollout.alpha=0.01 --runs 10000 -o json > study.json"
)
@file_option
@output_option
@click.option("--preset", metavar="NAME", help="A named policy instead of the project's: standard, careful, ...")
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
@click.option(
    "--effect", "effects", metavar="EFFECT", multiple=True,
    help="What the candidate does differently: none, errors+0.5 (points of a hundred), clicks-5% (of the rate). "
    "By default a grid over the policy's guardrails.",
)  # fmt: skip
@click.option("--rate", "amounts", type=click.FloatRange(0.01, 100_000), multiple=True, help="Requests/s of both arms.")
@click.option("--traffic", "kinds", metavar="KIND", multiple=True, help="Kind of traffic; `--traffic help` lists them.")
@click.option("--base", "bases", metavar="NAME=RATE", multiple=True, help="Stable's rate of events of a guardrail.")
@click.option(
    "--window",
    type=click.FloatRange(1, 3600),
    help="Seconds between two looks. [15; 60 below 10 requests/s; more for a rollout of many days]",
)
@click.option("--healthy-for", "healthy", metavar="DURATION", default="0s", show_default=True,
              help="Traffic before the candidate does anything differently: a fault that begins late.")  # fmt: skip
@click.option("--feedback-wait", "wait", metavar="DURATION", default="0s", show_default=True,
              help="Time after which clicks and other feedback of a request are counted.")  # fmt: skip
@click.option("--watch", is_flag=True,
              help="Go on through the policy's watch after promotion, by decide() alone: slower.")  # fmt: skip
@click.option("--users", type=click.IntRange(100), help="Number of users, in traffic that has some. [5000]")
@click.option("--runs", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="Rollouts a cell.")
@click.option("--check", "checked", type=click.IntRange(0), default=2, show_default=True,
              help="Rollouts a cell that decide() decides too, one at a time.")  # fmt: skip
@click.option(
    "--compare", is_flag=True, help="Flagger, Argo Rollouts (as documented) and a z-test, on the same traffic."
)
@click.option("--calibrate", is_flag=True,
              help="The same, set to take back no more equal candidates than the policy does.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture: .svg, .png or .pdf.")
def simulate(
    file: Path,
    output: str,
    preset: str | None,
    overrides: tuple[str, ...],
    effects: tuple[str, ...],
    amounts: tuple[float, ...],
    kinds: tuple[str, ...],
    bases: tuple[str, ...],
    window: float | None,
    healthy: str,
    wait: str,
    users: int | None,
    runs: int,
    checked: int,
    *,
    watch: bool,
    compare: bool,
    calibrate: bool,
    seed: int,
    processes: int,
    plot: Path | None,
) -> None:
    """Try a rollout policy on synthetic traffic before you trust it.

    Every cell is one true effect of a candidate on one kind of traffic. Shows how often an equal candidate would be
    taken back, how often a bad one would get through, how long both take, and how many requests would suffer. The
    decisions are those of a real rollout; nothing is started or written.
    """
    from slipway.serving.rollout.simulation.effects import grid_of_effects, parse_effect
    from slipway.serving.rollout.simulation.plots import check_plot_file, draw
    from slipway.serving.rollout.simulation.study import RATES, Study, check_study, conduct, notes
    from slipway.serving.rollout.simulation.traffic import SCENARIOS, event_rates

    if kinds == ("help",):
        emit([{"traffic": name, "is": text} for name, (text, _) in SCENARIOS.items()], output)
        return
    policy = _policy(file, preset, overrides)
    study = Study(
        policy=policy,
        rates=event_rates(policy, _given_rates(bases)),
        effects=[parse_effect(text) for text in effects] or grid_of_effects(policy),
        requests_per_second=amounts or RATES,
        traffic=kinds or ("constant",),
        runs=runs,
        seed=seed,
        window=window,
        users=users,
        healthy_for=_seconds(healthy),
        feedback_wait=_seconds(wait),
        checked=checked,
        watch=watch,
        compare=compare,
        calibrate=calibrate,
    )
    check_study(study)
    if plot is not None:
        check_plot_file(plot)
    for line in notes(study):
        note(f"note: {line}")
    with _shown() as (grid, tell):
        findings = conduct(study, grid(processes), tell)
    emit(
        dataclasses.asdict(findings), output, table=lambda: table_of([_row(cell) for cell in findings.cells], _COLUMNS)
    )
    _report_checks(findings.cells)
    for found in findings.calibrations:
        note(
            f"note: {found.method} at {found.requests_per_second:g} requests/s was set to {found.setting:.2f} "
            f"standard errors, at which it takes back {found.reached:.2%} of equal candidates"
        )
    if plot is not None:
        draw(findings.cells, plot, f"{runs:,} rollouts a point, {preset or policy.preset or 'the project'} policy")
        note(f"wrote {plot}")


def _policy(file: Path, preset: str | None, overrides: tuple[str, ...]) -> RolloutPolicy:
    from slipway.contracts.rollout import RolloutPolicy
    from slipway.contracts.rollout.presets import PresetName

    if preset is None:
        from slipway.contracts.project import load_project

        return load_project(file, overrides).rollout
    names = get_args(PresetName)
    if preset not in names:
        raise UsageError(f"there is no preset {preset!r}", remedy=f"Take one of: {', '.join(names)}.")
    if overrides:
        raise UsageError("--set changes a project file", remedy="Leave --preset out, or set rollout.preset with --set.")
    return RolloutPolicy.model_validate({"preset": preset})


def _seconds(text: str) -> float:
    from slipway.contracts.durations import parse_duration

    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise UsageError(str(error)) from error


def _given_rates(texts: tuple[str, ...]) -> dict[str, float]:
    rates = {}
    for text in texts:
        name, _, rate = text.partition("=")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise UsageError(f"{text!r} is not NAME=RATE", remedy="Write --base clicks=0.03.") from None
    return rates


@contextlib.contextmanager
def _shown() -> Iterator[tuple[Callable[[int], Any], Callable[[str], None]]]:
    """Shows a bar on stderr while cells run; gives what makes the grid, and what names the part that begins."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from slipway.serving.rollout.simulation.grid import Grid

    screen = console(stderr=True)
    bars = Progress(
        TextColumn("{task.description:<20}"), BarColumn(bar_width=40), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=screen, disable=not screen.is_terminal,
    )  # fmt: skip
    with bars:
        task = bars.add_task("", total=None)

        def make(processes: int) -> Grid:
            return Grid(processes, lambda done, total: bars.update(task, completed=done, total=total))

        yield make, lambda text: bars.update(task, description=text)


def _report_checks(cells: list[Cell]) -> None:
    checked, decisions = sum(cell.checked for cell in cells), sum(cell.decisions for cell in cells)
    differing = [line for cell in cells for line in cell.differences]
    if checked:
        note(f"{checked} rollouts ({decisions:,} looks) went through decide() too: {len(differing)} decided otherwise")
    for line in differing[:10]:
        note(f"warning: {line}")


def _row(cell: Cell) -> dict[str, Any]:
    return {
        "method": f"{cell.method}*" if cell.calibrated else cell.method,
        "traffic": cell.traffic,
        "requests/s": f"{cell.requests_per_second:g}",
        "effect": cell.effect,
        "odds ratio": "-" if cell.odds_ratio is None else f"{cell.odds_ratio:.2f}",
        "harmful": cell.harmful,
        "taken back": f"{cell.taken_back:.2%}",
        "promoted": f"{cell.promoted:.2%}",
        "not in time": f"{cell.not_in_time:.2%}",
        "other": f"{cell.other:.2%}",
        "detected after": _time(cell.seconds_to_detection),
        "slowest tenth": _time(cell.slow_seconds_to_detection),
        "promoted after": _time(cell.seconds_to_promotion),
        "bad requests": f"{cell.bad_requests:,.0f}",
    }


def _time(seconds: float | None) -> str:
    from slipway.contracts.durations import describe_seconds

    return "-" if seconds is None else describe_seconds(round(seconds))
