"""Evidence of one comparison between a candidate and the control, from counts of users in windows.

The window's law given its margins is exact and free of the base rate (`slipway.serving.rollout.core.hypergeometric`);
evidence multiplies over windows and may be looked at after each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slipway.contracts.errors import DataError
from slipway.serving.rollout.core.evidence import (
    bounds,
    log_evidence_above,
    log_evidence_below,
    log_odds_grid,
    point_estimate,
)
from slipway.serving.rollout.core.hypergeometric import Floats, log_likelihoods
from slipway.serving.rollout.core.proportions import rate_interval

Alternative = Literal["different", "higher", "lower"]

_SMALL_LIFTS = tuple(sign * 0.002 * 1.1**index for index in range(58) for sign in (1.0, -1.0))
GRID = log_odds_grid(*_SMALL_LIFTS)
"""Log odds ratios: finer near 1 than a rollout's, since experiments look for lifts of a few percent with many users."""
_ONE = int(np.searchsorted(GRID, 0.0))
_SHARE_OF_ODDS_RATIO = 0.9
"""Part of an interval's alpha that bounds the odds ratio; the rest bounds the control's rate, which matters less."""


@dataclass(frozen=True)
class PairCounts:
    """Users and those of them with an event, for candidate and control, in one window.

    Raises:
        DataError: A count is negative, or there are more events than users.
    """

    candidate_events: int
    candidate_users: int
    control_events: int
    control_users: int

    def __post_init__(self) -> None:
        pairs = ((self.candidate_events, self.candidate_users), (self.control_events, self.control_users))
        for events, users in pairs:
            if not 0 <= events <= users:
                raise DataError(
                    f"{events} users with an event among {users} users cannot be",
                    remedy="Count each user once, and those with an event among them.",
                )


@dataclass(frozen=True)
class Lift:
    """Relative change of the rate: 0.02 is 2 % more events than the control has. Bounds may be infinite."""

    value: float
    lower: float
    upper: float


def log_sums_of(windows: Iterable[PairCounts]) -> Floats:
    """Returns, over the grid of log odds ratios, the log-likelihood ratios against 1 summed over windows, shape [J].

    A user counts in one window only, that in which the experiment first met them: then windows are independent given
    what was before, as the sums need. Windows of a day are as good as windows of a minute.
    """
    sums = np.zeros(len(GRID))
    for window in windows:
        likelihoods = log_likelihoods(
            window.candidate_events,
            window.candidate_users,
            window.control_users,
            window.candidate_events + window.control_events,
            GRID,
        )
        sums += likelihoods - likelihoods[_ONE]
    return sums


def log_e_value(log_sums: Floats, alternative: Alternative = "different") -> float:
    """Returns the log e-value against "no difference", or against "not higher" or "not lower".

    The mean of an e-value for each side is an e-value for both.
    """
    if alternative == "higher":
        return log_evidence_above(log_sums, GRID, 0.0)
    if alternative == "lower":
        return log_evidence_below(log_sums, GRID, 0.0)
    sides = log_evidence_above(log_sums, GRID, 0.0), log_evidence_below(log_sums, GRID, 0.0)
    return float(np.logaddexp(*sides)) - math.log(2)


def lift_interval(log_sums: Floats, control_events: int, control_users: int, alpha: float) -> Lift:
    """Returns the relative change of the rate with an interval that holds at all looks at once.

    The odds ratio and the control's rate are bounded apart, and together give the lift. The bound of the odds ratio
    holds for any base rate; that of the control's rate is exact where the rate stays put.

    Args:
        log_sums: From `log_sums_of`.
        control_events: Users of the control with an event, in all windows.
        control_users: Users of the control, in all windows.
        alpha: Chance that the interval ever misses.
    """
    side = _SHARE_OF_ODDS_RATIO * alpha / 2
    low, high = (_exp(bound) for bound in bounds(log_sums, GRID, side, side))
    rates = rate_interval(control_events, control_users, (1 - _SHARE_OF_ODDS_RATIO) * alpha)
    value = math.nan
    if control_events > 0:
        value = _lift(_exp(point_estimate(log_sums, GRID)), control_events / control_users)
    return Lift(value, min(_lift(low, rate) for rate in rates), max(_lift(high, rate) for rate in rates))


def _lift(odds_ratio: float, rate: float) -> float:
    if math.isinf(odds_ratio):
        return 1 / rate - 1 if rate > 0 else math.inf
    return odds_ratio / (1 - rate + odds_ratio * rate) - 1 if odds_ratio > 0 else -1.0


def _exp(log_value: float) -> float:
    return math.exp(log_value) if log_value < math.inf else math.inf
