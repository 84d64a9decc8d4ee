"""The odds ratios at which one guardrail's evidence is kept: one grid that serves every step of a rollout.

Log-likelihoods on a grid do not depend on what is tolerated, so a grid that holds the margins of all steps keeps all of
the evidence when a step with another margin begins. What does depend on a margin is the any-start mixture of harm,
whose null is the odds ratio that harm begins at: there is one mixture for each such odds ratio that the steps name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from slipway.contracts.rollout import Guardrail, Margin, RolloutPolicy
from slipway.serving.rollout.core.evidence import log_odds_grid
from slipway.serving.rollout.core.hypergeometric import Floats


@dataclass(frozen=True, eq=False)
class OddsGrid:
    """Log odds ratios of bad events.

    Args:
        points: Ascending, shape [J].
        harms: Log odds ratios that harm begins at, at some step; ascending, without repetition, each a point.
        differences: Differences of rates that are tolerated at some step; ascending, without repetition.
        key: Names the grid; evidence under another key was kept on another one.
    """

    points: Floats
    harms: tuple[float, ...]
    differences: tuple[float, ...]
    key: tuple[float, ...]

    def at(self, log_odds: float) -> int:
        """Returns the index of a point."""
        return int(np.searchsorted(self.points, log_odds - 1e-12))

    def alternatives(self, harm: float) -> slice:
        """Returns where the points beyond an odds ratio that harm begins at lie among the points."""
        return slice(self.at(harm) + 1, len(self.points))

    def mixture(self, harm: float) -> slice:
        """Returns where the mixture against an odds ratio that harm begins at lies among all mixtures of harm."""
        sizes = [len(self.points) - self.at(value) - 1 for value in self.harms]
        index = self.harms.index(harm)
        return slice(sum(sizes[:index]), sum(sizes[: index + 1]))

    @property
    def mixture_size(self) -> int:
        """Length of all mixtures of harm together."""
        return sum(len(self.points) - self.at(value) - 1 for value in self.harms)


def odds_grid(policy: RolloutPolicy, guardrail: Guardrail) -> OddsGrid:
    """Returns the grid of a guardrail, with the margins of every step and the odds ratio of `minimum_lift` in it."""
    ratios = (margin.odds_ratio for margin in margins_of(policy, guardrail))
    margins = {abs(math.log(ratio)) for ratio in ratios if ratio is not None}
    harms = margins if guardrail.harm_from is None else {abs(math.log(guardrail.harm_from))}
    differences = tolerated_differences(policy, guardrail)
    return _grid(tuple(sorted(margins)), tuple(sorted(harms)) or (0.0,), differences, log_lift(guardrail))


def tolerated_differences(policy: RolloutPolicy, guardrail: Guardrail) -> tuple[float, ...]:
    """Returns the differences that harm begins at, ascending: the absolute margins of all steps, from 0 to 1."""
    margins = margins_of(policy, guardrail)
    return tuple(sorted({margin.absolute / guardrail.scale for margin in margins if margin.absolute is not None}))


def margins_of(policy: RolloutPolicy, guardrail: Guardrail) -> list[Margin]:
    """Returns the margins that a guardrail, or the one that it is a part of, has at the steps; its own if it is new."""
    name = guardrail.name.partition("@")[0]
    own = next((one.margin for one in policy.guardrails if one.name == name), guardrail.margin)
    return [step.margins.get(name, own) for step in policy.steps]


def log_margins(guardrail: Guardrail) -> tuple[float | None, float | None]:
    """Returns (margin, where harm begins) as log odds ratios of bad events, None where only the rates are compared."""
    ratio = guardrail.margin.odds_ratio
    if ratio is None:
        return None, None
    return abs(math.log(ratio)), abs(math.log(guardrail.harm_from or ratio))


def log_lift(guardrail: Guardrail) -> float:
    """Returns the log odds ratio of bad events that a candidate must be below to be called better; at most 0."""
    return -abs(math.log(guardrail.minimum_lift))


@lru_cache(maxsize=256)
def _grid(
    margins: tuple[float, ...], harms: tuple[float, ...], differences: tuple[float, ...], lift: float
) -> OddsGrid:
    points = log_odds_grid(*margins, *harms, lift + 0.0)
    points.setflags(write=False)
    return OddsGrid(points, harms, differences, (*margins, *harms, *differences, lift, float(len(points))))
