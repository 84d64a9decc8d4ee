"""A table of experiments judged together: lift, evidence, sample ratio, and which are discoveries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from slipway.contracts.errors import DataError
from slipway.serving.experiments.discoveries import e_bh, level_after_selection
from slipway.serving.experiments.evidence import (
    Alternative,
    Lift,
    PairCounts,
    lift_interval,
    log_e_value,
    log_sums_of,
)
from slipway.serving.experiments.layers import Experiment
from slipway.serving.experiments.sample_ratio import log_evidence_of_mismatch

SAMPLE_RATIO_ALPHA = 0.001


@dataclass(frozen=True)
class ArmCounts:
    """Users that an arm met first in one window, and those of them with an event."""

    users: int
    events: int


Window = Mapping[str, ArmCounts]
"""Counts of one window, by arm."""


@dataclass(frozen=True)
class Comparison:
    """One arm of one experiment against its control.

    Args:
        lift: Relative change of the rate, with an interval at the level asked for, by itself.
        selected: For discoveries, the interval that allows for having been picked out of all; else None.
        log_e_value: Natural log of the evidence of a difference, after the check of the sample ratio.
        log_mismatch: Natural log of the evidence that users are not split as the weights say.
        sample_ratio_holds: False where that evidence has reached its level: the comparison is void.
        discovery: Whether to believe the difference.
    """

    experiment: str
    arm: str
    control: str
    users: int
    control_users: int
    rate: float
    control_rate: float
    lift: Lift
    selected: Lift | None
    log_e_value: float
    log_mismatch: float
    sample_ratio_holds: bool
    discovery: bool


def analyse(
    data: Sequence[tuple[Experiment, Sequence[Window]]],
    *,
    fdr: float = 0.05,
    alpha: float = 0.05,
    alternative: Alternative = "different",
) -> list[Comparison]:
    """Returns each arm compared with its control, in the order given.

    The false discovery rate is over all comparisons handed in. It holds whenever the table is looked at and an
    experiment stopped, and whether or not experiments share users; it does not hold for whoever looks at several tables
    and takes the best.

    Args:
        data: Experiments with their windows, each in the order of time.
        fdr: Tolerated expected part of false ones among the discoveries.
        alpha: Chance that a single interval ever misses.
        alternative: What counts as a discovery: a difference, or a higher or lower rate only.

    Raises:
        DataError: Counts that cannot be, or of an arm that the experiment does not have.
    """
    found = [_compare(experiment, arm, windows, alpha, alternative) for experiment, arm, windows in _pairs(data)]
    rejected = e_bh([comparison.log_e_value for comparison, _ in found], fdr)
    level = level_after_selection(alpha, int(rejected.sum()), max(1, len(found)))
    results = []
    for (comparison, lift_at), discovery in zip(found, rejected.tolist(), strict=True):
        selected = lift_at(level) if discovery else None
        results.append(replace(comparison, discovery=discovery, selected=selected))
    return results


def _pairs(data: Sequence[tuple[Experiment, Sequence[Window]]]) -> list[tuple[Experiment, str, Sequence[Window]]]:
    pairs = []
    for experiment, windows in data:
        unknown = {arm for window in windows for arm in window} - set(experiment.arms)
        if unknown:
            raise DataError(
                f"there are counts of {min(unknown)!r}, which is none of its arms {', '.join(experiment.arms)}",
                where=f"experiment {experiment.name}",
            )
        pairs += [(experiment, arm, windows) for arm in experiment.arms if arm != experiment.control]
    return pairs


def _compare(
    experiment: Experiment, arm: str, windows: Sequence[Window], alpha: float, alternative: Alternative
) -> tuple[Comparison, Callable[[float], Lift]]:
    """Returns the comparison, and its lift at any level."""
    control = str(experiment.control)
    nothing = ArmCounts(0, 0)
    pairs = []
    for window in windows:
        mine, theirs = window.get(arm, nothing), window.get(control, nothing)
        try:
            pairs.append(PairCounts(mine.events, mine.users, theirs.events, theirs.users))
        except DataError as error:
            raise DataError(error.what, where=f"experiment {experiment.name}", remedy=error.remedy) from None
    users = {name: sum(window.get(name, nothing).users for window in windows) for name in experiment.arms}
    log_mismatch = log_evidence_of_mismatch(users, experiment.arms)
    holds = log_mismatch < math.log(1 / SAMPLE_RATIO_ALPHA)
    events, control_events = (sum(window.get(name, nothing).events for window in windows) for name in (arm, control))
    log_sums = log_sums_of(pairs)
    lift_at = partial(lift_interval, log_sums, control_events, users[control])
    comparison = Comparison(
        experiment=experiment.name,
        arm=arm,
        control=control,
        users=users[arm],
        control_users=users[control],
        rate=events / users[arm] if users[arm] else math.nan,
        control_rate=control_events / users[control] if users[control] else math.nan,
        lift=lift_at(alpha),
        selected=None,
        # No evidence at all is an e-value too: a void comparison costs the others nothing but its place.
        log_e_value=log_e_value(log_sums, alternative) if holds else -math.inf,
        log_mismatch=log_mismatch,
        sample_ratio_holds=holds,
        discovery=False,
    )
    return comparison, lift_at
