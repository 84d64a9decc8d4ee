"""`slipway experiments`: what A/B tests need beforehand, whether they can run together, and which to believe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.options import output_option
from slipway.cli.output import emit, note, table_of
from slipway.contracts.errors import UsageError

if TYPE_CHECKING:
    from slipway.serving.experiments.analysis import Comparison
    from slipway.serving.experiments.evidence import Lift

_definitions = click.argument("definitions", type=click.Path(path_type=Path), metavar="EXPERIMENTS.yaml")


@click.group()
def experiments() -> None:
    """Plan, check and judge A/B tests, many at once.

    \b
    Examples:
      slipway experiments plan --baseline 0.15 --lift 0.02 --users-per-day 20000
      slipway experiments check experiments.yaml
      slipway experiments assign experiments.yaml user-42
      slipway experiments analyse experiments.yaml counts.csv
    """


@experiments.command(
    epilog="\b\nExamples:\n"
    "  slipway experiments plan --baseline 0.15 --lift 0.02\n"
    "  slipway experiments plan --baseline 0.15 --users 200000 -o json"
)
@output_option
@click.option("--baseline", type=float, required=True, help="Rate of the control: 0.15 where 15 of 100 users click.")
@click.option("--lift", type=float, help="Relative change to be seen: 0.02 is 2 % more, -0.02 is 2 % fewer.")
@click.option("--users", type=click.IntRange(min=2), help="Of both arms: say what lift so many users show.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Chance of a false alarm.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Chance of seeing the lift if it is there.")
@click.option("--candidate-share", type=float, default=0.5, show_default=True, help="Part of the users with it.")
@click.option("--one-sided", is_flag=True, help="Look for a change to the side of the lift only.")
@click.option("--users-per-day", type=click.FloatRange(min=0, min_open=True), help="New users a day: adds days.")
def plan(
    output: str,
    baseline: float,
    lift: float | None,
    users: int | None,
    alpha: float,
    power: float,
    candidate_share: float,
    *,
    one_sided: bool,
    users_per_day: float | None,
) -> None:
    """Say how many users a lift takes, or what lift a number of users shows; for one look and for any number."""
    from slipway.serving.experiments.planning import Design, fixed_users, minimum_detectable_lift, sequential_users

    if (lift is None) == (users is None):
        raise UsageError("give either --lift or --users", remedy="--lift asks for users, --users for the lift.")
    design = Design(baseline, lift or 0.01, alpha, power, candidate_share, two_sided=not one_sided)
    rows = []
    for kind, sequential in (("fixed: one look, at the end", False), ("sequential: any number of looks", True)):
        needed = users or (sequential_users(design) if sequential else fixed_users(design))
        row: dict[str, Any] = {"test": kind, "users": needed, "users_of_candidate": round(needed * candidate_share)}
        row["lift"] = lift if lift is not None else minimum_detectable_lift(design, needed, sequential=sequential)
        if users_per_day is not None:
            row["days"] = needed / users_per_day
        rows.append(row)
    note(f"users of both arms, for a rate of {baseline:.2%}, alpha {alpha:g} and power {power:g}")
    emit(rows, output)


@experiments.command(epilog="\b\nExample:\n  slipway experiments check experiments.yaml")
@output_option
@_definitions
def check(output: str, definitions: Path) -> None:
    """Say whether experiments can run together, and what is free in each layer; exit code 3 if two conflict."""
    from slipway.serving.experiments.definitions import load_layers

    layers = load_layers(definitions)
    rows = [
        {
            "layer": experiment.layer,
            "experiment": experiment.name,
            "buckets": f"{experiment.start}-{experiment.stop}",
            "arms": ", ".join(f"{arm} {weight:g} %" for arm, weight in experiment.arms.items()),
            "control": experiment.control,
        }
        for experiment in sorted(layers.experiments, key=lambda other: (other.layer, other.start))
    ]
    for layer in dict.fromkeys(row["layer"] for row in rows):
        free = ", ".join(f"{start}-{stop}" for start, stop in layers.free(str(layer))) or "none"
        note(f"layer {layer}: free buckets {free}")
    emit(rows, output)


@experiments.command(epilog="\b\nExample:\n  slipway experiments assign experiments.yaml user-42")
@output_option
@_definitions
@click.argument("user")
def assign(output: str, definitions: Path, user: str) -> None:
    """Say in which experiments a user is, and with which arm."""
    from slipway.serving.experiments.definitions import load_layers

    arms = load_layers(definitions).arms_of(user)
    emit([{"experiment": name, "arm": arm} for name, arm in arms.items()], output)


@experiments.command(epilog="\b\nExample:\n  slipway experiments analyse experiments.yaml counts.csv --fdr 0.1")
@output_option
@_definitions
@click.argument("counts", type=click.Path(path_type=Path), metavar="COUNTS.csv")
@click.option(
    "--fdr", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
    help="Tolerated part of false ones among the discoveries.",
)  # fmt: skip
@click.option(
    "--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
    help="Chance that a single interval ever misses.",
)  # fmt: skip
@click.option(
    "--alternative", type=click.Choice(["different", "higher", "lower"]), default="different", show_default=True,
    help="What counts as a discovery.",
)  # fmt: skip
def analyse(output: str, definitions: Path, counts: Path, fdr: float, alpha: float, alternative: Any) -> None:
    """Judge all experiments together: lift, evidence, sample ratio, and which are discoveries.

    COUNTS.csv has the columns experiment, window, arm, users and events; a user counts in the window in which the
    experiment met them first. It may be judged as often as you like.
    """
    from slipway.serving.experiments.analysis import analyse as judge
    from slipway.serving.experiments.definitions import load_counts, load_layers

    layers = load_layers(definitions)
    results = judge(load_counts(counts, layers), fdr=fdr, alpha=alpha, alternative=alternative)
    for result in results:
        if not result.sample_ratio_holds:
            note(f"{result.experiment}: users are not split as the weights say; nothing can be said about its arms")
    emit([dataclasses.asdict(result) for result in results], output, table=lambda: table_of(list(map(_row, results))))


def _row(result: Comparison) -> dict[str, Any]:
    shown = result.selected or result.lift
    return {
        "experiment": result.experiment,
        "arm": result.arm,
        "users": result.users,
        "rate": result.rate,
        "control": result.control_rate,
        "lift": _percent(result.lift.value),
        "interval": _interval(shown),
        "log_e": result.log_e_value if result.sample_ratio_holds else None,
        "sample_ratio": "holds" if result.sample_ratio_holds else "MISMATCH",
        "discovery": result.discovery,
    }


def _interval(lift: Lift) -> str:
    return f"{_percent(lift.lower)} to {_percent(lift.upper)}"


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %" if abs(value) < 1e6 else "-"  # NaN is not below either
