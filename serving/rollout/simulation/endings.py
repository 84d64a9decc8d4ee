"""How simulated rollouts end, and what methods that decide them have in common."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import numpy as np

from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.windows import Windows


class Ending(IntEnum):
    """What became of a rollout."""

    RUNNING = 0
    PROMOTED = 1
    HARM = 2
    """Taken back by evidence of harm, a broken limit, or checks that failed."""
    UNPROVEN = 3
    """Taken back at a deadline, without evidence either way."""
    NO_DATA = 4
    """Taken back for want of readings, or because traffic was not split as set."""
    FAULT = 5
    """Taken back by a hard fault, such as too many restarts."""
    HELD = 6
    """Stopped until a person says what to do."""


class Endings:
    """When and how each of R rollouts ended: what every method keeps.

    Args:
        runs: Number of rollouts R.
    """

    def __init__(self, runs: int) -> None:
        self.ending: Ints = np.full(runs, int(Ending.RUNNING), dtype=np.int64)
        self.at: Floats = np.full(runs, np.nan)
        self.step: Ints = np.zeros(runs, dtype=np.int64)

    def finish(self, rows: Ints, how: Ending, now: float) -> None:
        """Ends the rollouts of `rows` that have not ended."""
        rows = rows[self.ending[rows] == Ending.RUNNING]
        self.ending[rows] = int(how)
        self.at[rows] = now

    def going(self) -> Ints:
        """Returns the rollouts that have not ended."""
        return np.flatnonzero(self.ending == Ending.RUNNING)


class Method(Protocol):
    """Whatever decides rollouts by looking at windows."""

    endings: Endings

    def weights(self, rows: Ints) -> Ints:
        """Returns the percent of traffic that the candidate has, shape [A]."""
        ...

    def look(self, rows: Ints, windows: Windows) -> None:
        """Takes the windows of the rollouts `rows` in, and decides."""
        ...
