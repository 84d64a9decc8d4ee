"""Hyperband (Li et al. 2018), as Katib's service has it: brackets of trials, the best of which go on with more.

A bracket s begins with ceil((s_max + 1) eta^s / (s + 1)) random trials that get the resource r = R eta^-s each. The
best 1/eta of them are run again, from the beginning, with eta times as much, until the last get R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slipway.contracts.project.sweep import hyperband_brackets


@dataclass(frozen=True)
class Rung:
    """`count` trials with `resource` each; rung `step` of bracket `bracket`."""

    bracket: int
    step: int
    count: int
    resource: int


@dataclass(frozen=True)
class Outcome:
    """A trial so far. `value` is None while it runs, and where it failed; `finished` tells these apart."""

    bracket: int
    step: int
    values: dict[str, Any]
    finished: bool
    value: float | None


@dataclass(frozen=True)
class Suggestion:
    """The next trial. `values` are those of a trial that goes on; None asks for new ones. The resource is apart."""

    rung: Rung
    values: dict[str, Any] | None


def rungs(maximum_resource: float, eta: float) -> list[list[Rung]]:
    """Returns the rungs of each bracket, in the order in which they run."""
    most = hyperband_brackets(maximum_resource, eta)
    brackets = []
    for bracket in range(most, -1, -1):
        count = math.ceil((most + 1) * eta**bracket / (bracket + 1))
        resource = maximum_resource * eta**-bracket
        steps = []
        for step in range(bracket + 1):
            steps.append(Rung(bracket, step, count, max(1, int(resource * eta**step + 1e-9))))
            count = math.ceil(count / eta)
        brackets.append(steps)
    return brackets


def next_suggestion(
    outcomes: Sequence[Outcome], maximum_resource: float, eta: float, *, maximize: bool
) -> Suggestion | None:
    """Returns the next trial; None if some must end first, or all is done (see `is_done`)."""
    for bracket in rungs(maximum_resource, eta):
        above: list[Outcome] = []
        for rung in bracket:
            own = [row for row in outcomes if (row.bracket, row.step) == (rung.bracket, rung.step)]
            if rung.step == 0:
                if len(own) < rung.count:
                    return Suggestion(rung, None)
            else:
                best = _best(above, rung.count, maximize=maximize)
                if len(own) < len(best):
                    return Suggestion(rung, best[len(own)].values)
            if not all(row.finished for row in own):
                return None
            above = own
    return None


def is_done(outcomes: Sequence[Outcome], maximum_resource: float, eta: float, *, maximize: bool) -> bool:
    """Says whether no trial runs and none is to come."""
    return (
        all(row.finished for row in outcomes)
        and next_suggestion(outcomes, maximum_resource, eta, maximize=maximize) is None
    )


def _best(rows: Sequence[Outcome], count: int, *, maximize: bool) -> list[Outcome]:
    # What failed goes no further.
    valued = [row for row in rows if row.value is not None]
    return sorted(valued, key=lambda row: row.value or 0.0, reverse=maximize)[:count]
