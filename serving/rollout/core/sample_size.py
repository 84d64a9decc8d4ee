"""How many requests, or users, it takes until a guardrail is proven or better; and what difference so many can show.

Typical data are counts equal to their expectation: on them the evidence that judges real data grows in proportion to
the requests, and what is left is to find where it crosses its threshold. Luck is a normal shift of the events that the
candidate has; nine plans in ten take no longer than those with a luck of -1.28.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slipway.contracts.rollout import Guardrail, RolloutPolicy, Step
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.evidence import log_evidence_below, log_mean_exp
from slipway.serving.rollout.core.hypergeometric import Floats, log_likelihoods
from slipway.serving.rollout.core.means import BETS, psi
from slipway.serving.rollout.core.odds_grid import log_lift, log_margins, odds_grid
from slipway.serving.rollout.core.proportions import difference_interval

LARGEST = 1e12
UNLUCKY = -1.2815515655446004
"""The luck of the unluckiest tenth: the 10 % quantile of the normal law."""
POWER_80 = -0.8416212335729143
"""The luck that eight in ten are above: what is planned with it is found with a power of 80 %."""
Claim = Literal["proven", "better"]


@dataclass(frozen=True)
class Split:
    """Requests (or users) of candidate and stable for each request that comes in. Copies come on top of it."""

    candidate: float
    stable: float

    @classmethod
    def at(cls, step: Step, candidates: int = 1) -> Split:
        """Returns the split of a step, of which each of so many candidates gets its weight."""
        if step.mirror:
            return cls(step.mirror / 100, 1.0)
        return cls(step.weight / 100, max(0.0, 1 - candidates * step.weight / 100))


@dataclass(frozen=True)
class Truth:
    """What is assumed of a guardrail.

    Args:
        rate: Stable's rate of events.
        odds_ratio: The candidate's true odds ratio of events.
        deviation: Of a mean: the standard deviation of its values, on the scale of 0 to 1.
        difference: Of a mean: candidate minus stable, on the same scale.
    """

    rate: float = 0.0
    odds_ratio: float = 1.0
    deviation: float = 0.5
    difference: float = 0.0


def no_evidence(guardrail: Guardrail, policy: RolloutPolicy) -> Floats:
    """Returns the evidence at the start, in the form that `growth` has."""
    if guardrail.is_mean:
        return np.zeros(len(BETS) + 1)
    return np.zeros(len(odds_grid(policy, guardrail).points))


def growth(guardrail: Guardrail, policy: RolloutPolicy, split: Split, truth: Truth) -> Floats:
    """Returns what one more request adds to the evidence, typically: log-sums over the grid of odds ratios; for a mean,
    those over the bets, and the weight."""
    if guardrail.is_mean:
        return _mean_growth(guardrail, split, truth)
    return _odds_growth(guardrail, policy, split, truth)[0]


def needed(
    guardrail: Guardrail,
    policy: RolloutPolicy,
    split: Split,
    truth: Truth,
    claim: Claim,
    *,
    start: Floats | None = None,
    luck: float = 0.0,
    candidates: int = 1,
) -> float:
    """Returns the requests that must come in, or the users, until a claim about a guardrail stands; infinite if never.

    Args:
        guardrail: With the margin of the step.
        policy: For levels and grid.
        split: How requests fall on the arms.
        truth: What is assumed.
        claim: Proven no worse than the margin, or better by more than `minimum_lift` (or `minimum_gain`).
        start: Evidence that earlier steps have brought; none if not given.
        luck: In standard deviations; negative for a candidate whose sample looks worse than it is.
        candidates: Among which the level is shared.
    """
    levels = Levels.of(policy)
    proof, whole = (level / max(1, candidates) for level in (levels.proof(guardrail), levels.all))
    before = no_evidence(guardrail, policy) if start is None else start
    if guardrail.is_mean:
        level = whole if claim == "better" else proof
        return _first(_mean_claim(guardrail, split, truth, claim, before, luck, level))
    ways = []
    margin, _ = log_margins(guardrail)
    if margin is not None:
        null, level = (log_lift(guardrail), whole) if claim == "better" else (margin, proof)
        ways.append(_first(_odds_claim(guardrail, policy, split, truth, null, before, luck, level)))
    if guardrail.margin.absolute is not None and claim == "proven":
        ways.append(_first(_difference_claim(guardrail, split, truth, luck, proof)))
    return min(ways, default=math.inf)


def requests_to_prove(
    guardrail: Guardrail,
    policy: RolloutPolicy,
    weight: int,
    base_rate: float,
    odds_ratio: float = 1.0,
    *,
    claim: Claim = "proven",
    unlucky: bool = False,
) -> float:
    """Returns the requests of both arms until a guardrail of events is proven (or better) at one weight.

    Args:
        guardrail: The guardrail.
        policy: For the level.
        weight: Percent for the candidate, between 1 and 99.
        base_rate: Stable's rate of events.
        odds_ratio: The candidate's true odds ratio of events.
        claim: What is to be shown.
        unlucky: For the unluckiest tenth instead of the typical case.
    """
    split, truth = Split(weight / 100, 1 - weight / 100), Truth(base_rate, odds_ratio)
    return needed(guardrail, policy, split, truth, claim, luck=UNLUCKY if unlucky else 0.0)


def detectable(
    guardrail: Guardrail,
    policy: RolloutPolicy,
    split: Split,
    truth: Truth,
    units: float,
    *,
    start: Floats | None = None,
    luck: float = POWER_80,
    candidates: int = 1,
) -> float | None:
    """Returns the smallest improvement that so many requests (or users) show to be better; None if none would.

    Args:
        guardrail, policy, split, truth, start, candidates: As for `needed`; the effect in `truth` is left out.
        units: Requests that come in, or users.
        luck: -0.84 for a power of 80 %.

    Returns:
        An odds ratio of events, above 1 where higher is better and below 1 where lower is; for a mean, a difference in
        the unit of its values, positive.
    """
    largest = 0.5 if guardrail.is_mean else math.log(20)

    def effect(size: float) -> Truth:
        if guardrail.is_mean:
            return Truth(deviation=truth.deviation, difference=size if guardrail.higher_is_better else -size)
        return Truth(truth.rate, math.exp(size if guardrail.higher_is_better else -size))

    def is_shown(size: float) -> bool:
        claimed = needed(
            guardrail, policy, split, effect(size), "better", start=start, luck=luck, candidates=candidates
        )
        return claimed <= units

    if units <= 0 or not is_shown(largest):
        return None
    low, high = 0.0, largest
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_shown(middle) else (middle, high)
    return high * guardrail.scale if guardrail.is_mean else effect(high).odds_ratio


def _odds_claim(
    guardrail: Guardrail,
    policy: RolloutPolicy,
    split: Split,
    truth: Truth,
    null: float,
    start: Floats,
    luck: float,
    level: float,
) -> Callable[[float], bool]:
    points = odds_grid(policy, guardrail).points
    grown, variance = _odds_growth(guardrail, policy, split, truth)

    def stands(units: float) -> bool:
        sums = start + units * grown - luck * math.sqrt(units * variance) * points
        return log_evidence_below(sums, points, null) >= math.log(1 / level)

    return stands


def _difference_claim(
    guardrail: Guardrail, split: Split, truth: Truth, luck: float, level: float
) -> Callable[[float], bool]:
    stable, candidate = _bad_rates(guardrail, truth)
    margin = guardrail.margin.absolute or 0.0

    def stands(units: float) -> bool:
        n_c, n_s = round(units * split.candidate), round(units * split.stable)
        spread = math.sqrt(n_c * candidate * (1 - candidate)) if n_c else 0.0
        bad = min(n_c, max(0, round(n_c * candidate - luck * spread)))
        return difference_interval(bad, n_c, round(n_s * stable), n_s, level)[1] <= margin

    return stands


def _mean_claim(
    guardrail: Guardrail, split: Split, truth: Truth, claim: Claim, start: Floats, luck: float, level: float
) -> Callable[[float], bool]:
    scale = guardrail.scale
    null = -guardrail.minimum_gain / scale if claim == "better" else (guardrail.margin.absolute or 0.0) / scale
    grown = _mean_growth(guardrail, split, truth)

    def stands(units: float) -> bool:
        evidence = start + units * grown
        shift = luck * math.sqrt(units * grown[-1]) * truth.deviation
        return log_mean_exp(evidence[:-1] + (null * evidence[-1] + shift) * BETS) >= math.log(1 / level)

    return stands


def _mean_growth(guardrail: Guardrail, split: Split, truth: Truth) -> Floats:
    whole = split.candidate + split.stable
    weight = split.candidate * split.stable / whole if whole else 0.0
    worse = -truth.difference if guardrail.higher_is_better else truth.difference
    penalty = psi(BETS * split.stable / whole) * split.candidate + psi(BETS * split.candidate / whole) * split.stable
    return np.append(-worse * weight * BETS - penalty * truth.deviation**2, weight)


def _odds_growth(guardrail: Guardrail, policy: RolloutPolicy, split: Split, truth: Truth) -> tuple[Floats, float]:
    """Returns, per request, the typical growth of the log-sums, shape [grid], and the variance of the bad events."""
    grid = odds_grid(policy, guardrail)
    stable, candidate = _bad_rates(guardrail, truth)
    whole = split.candidate + split.stable
    share = split.candidate / whole
    bad = share * candidate + (1 - share) * stable
    if not 0 < bad < 1:
        return np.zeros(len(grid.points)), 0.0
    size = max(20_000, math.ceil(400 / min(bad, 1 - bad)))
    n_c = round(size * share)
    n_s = size - n_c
    k = round(n_c * candidate + n_s * stable)
    # The candidate's mean given k; k itself is rounded, and the difference falls on the arms by their rates.
    x = n_c * candidate + (k - n_c * candidate - n_s * stable) * share
    sums = log_likelihoods(x, n_c, n_s, k, grid.points)
    variances = (n_c * candidate * (1 - candidate), n_s * stable * (1 - stable))
    variance = 1 / sum(1 / max(value, 1e-12) for value in variances)
    return (sums - sums[grid.at(0.0)]) * whole / size, variance * whole / size


def _bad_rates(guardrail: Guardrail, truth: Truth) -> tuple[float, float]:
    """Returns the rates of bad events of stable and candidate."""
    higher = guardrail.higher_is_better
    stable, ratio = (1 - truth.rate, 1 / truth.odds_ratio) if higher else (truth.rate, truth.odds_ratio)
    return stable, stable * ratio / (1 - stable + stable * ratio)


def _first(holds: Callable[[float], bool]) -> float:
    """Returns the smallest number of requests, to one in a hundred, at which `holds`; infinite if it never does."""
    high = 16.0
    while not holds(high):
        high *= 2
        if high > LARGEST:
            return math.inf
    low = high / 2
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return math.ceil(high)
