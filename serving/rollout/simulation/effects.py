"""What a simulated candidate does differently: the truth that a policy is to find out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from slipway.contracts.errors import UsageError
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.hypergeometric import Floats

_TEXT = re.compile(r"([a-z][a-z0-9_-]*)([+-]\d+(?:\.\d+)?)(%?)")
_LARGEST_RATE = 0.999


@dataclass(frozen=True)
class Effect:
    """One change of one rate of events; all others stay as they are.

    Args:
        guardrail: Name of the guardrail whose rate changes; "" for no change at all.
        change: In points of a hundred, or percent of the rate itself.
        relative: Which of the two.
    """

    guardrail: str = ""
    change: float = 0.0
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.guardrail}{self.change:+g}{'%' if self.relative else ''}" if self.guardrail else "none"

    def rates(self, guardrail: str, stable: Floats) -> Floats:
        """Returns the candidate's rates of events where stable's are `stable`, of any shape."""
        if guardrail != self.guardrail:
            return stable
        changed = stable * (1 + self.change / 100) if self.relative else stable + self.change / 100
        return np.asarray(np.clip(changed, 0.0, np.maximum(stable, _LARGEST_RATE)))


NO_EFFECT = Effect()


def parse_effect(text: str) -> Effect:
    """Reads `none`, `errors+0.5` (points of a hundred) or `clicks-5%` (percent of the rate).

    Raises:
        UsageError: The text is none of these.
    """
    if text == "none":
        return NO_EFFECT
    found = _TEXT.fullmatch(text.replace(" ", ""))
    if found is None:
        raise UsageError(
            f"{text!r} is not an effect",
            remedy="Write `none`, `errors+0.5` for half a point more of a hundred, or `clicks-5%` for 5 % fewer.",
        )
    return Effect(found[1], float(found[2]), found[3] == "%")


def grid_of_effects(policy: RolloutPolicy) -> list[Effect]:
    """Returns the effects that are of interest for the guardrails of a policy, none at all first."""
    effects = [NO_EFFECT]
    for guardrail in policy.guardrails:
        changes: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0)
        if guardrail.kind == "errors":
            changes = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
        elif guardrail.kind == "latency":
            changes = (5.0, 20.0, 50.0, 100.0)
        if guardrail.kind in ("errors", "latency", "clicks", "counters"):
            sign = -1.0 if guardrail.higher_is_better else 1.0
            relative = guardrail.kind != "errors"
            effects += [Effect(guardrail.name, sign * change, relative) for change in changes]
    return effects


def odds_ratio(guardrail_effect: Effect, base_rate: float) -> float:
    """Returns the true odds ratio of events that an effect means at a base rate."""
    changed = float(guardrail_effect.rates(guardrail_effect.guardrail, np.array(base_rate)))
    return changed / (1 - changed) * (1 - base_rate) / base_rate


def is_harmful(effect: Effect, policy: RolloutPolicy, base_rate: float) -> bool:
    """Returns whether an effect lies beyond every margin of its guardrail, so that the candidate has to go back."""
    guardrail = next((item for item in policy.guardrails if item.name == effect.guardrail), None)
    if guardrail is None:
        return False
    changed = float(effect.rates(effect.guardrail, np.array(base_rate)))
    worse = base_rate - changed if guardrail.higher_is_better else changed - base_rate
    ratio = odds_ratio(effect, base_rate)
    beyond = []
    if guardrail.margin.odds_ratio is not None:
        limit = guardrail.harm_from or guardrail.margin.odds_ratio
        beyond.append(ratio < limit if guardrail.higher_is_better else ratio > limit)
    if guardrail.margin.absolute is not None:
        beyond.append(worse > guardrail.margin.absolute)
    return all(beyond)
