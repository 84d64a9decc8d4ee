"""Many rollouts, from the first window to their end: the loop that every method runs in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.endings import Ending, Method
from slipway.serving.rollout.simulation.windows import Traffic, Windows


@dataclass(frozen=True)
class Rollouts:
    """How R rollouts went.

    Args:
        ending: What became of them, values of `Ending`, shape [R].
        seconds: From the first traffic to the end; to the last look for those that never ended. Shape [R].
        step: Index of the step at which they ended.
        exposed: Expected number of requests that were worse off for having met the candidate, until the end.
        looks: Looks until the end.
    """

    ending: Ints
    seconds: Floats
    step: Ints
    exposed: Floats
    looks: Ints

    def share(self, *endings: Ending) -> float:
        """Returns the share of rollouts with one of the endings."""
        return float(np.isin(self.ending, [int(ending) for ending in endings]).mean())

    @classmethod
    def joined(cls, parts: list[Rollouts]) -> Rollouts:
        """Returns the rollouts of all parts."""
        return cls(
            np.concatenate([part.ending for part in parts]),
            np.concatenate([part.seconds for part in parts]),
            np.concatenate([part.step for part in parts]),
            np.concatenate([part.exposed for part in parts]),
            np.concatenate([part.looks for part in parts]),
        )


@dataclass
class Recording:
    """What a method saw and decided in its first rollouts, for a check by another.

    Args:
        runs: Rollouts to record.
        looks: Per rollout, (weight in percent, its window) at each look.
        most: Looks of a rollout that are recorded; one that goes on for a day would take a check of minutes.
    """

    runs: int
    looks: list[list[tuple[int, Windows]]]
    most: int = 1000

    @classmethod
    def of(cls, runs: int) -> Recording:
        """Returns an empty recording."""
        return cls(runs, [[] for _ in range(runs)])

    def take(self, rows: Ints, weights: Ints, windows: Windows) -> None:
        """Records one look."""
        for index in np.flatnonzero(rows < self.runs).tolist():
            looks = self.looks[int(rows[index])]
            if len(looks) < self.most:
                looks.append((int(weights[index]), windows.rows(np.array([index]))))


def run(
    method: Method,
    traffic: Traffic,
    horizon: float,
    *,
    recording: Recording | None = None,
) -> Rollouts:
    """Runs every rollout of a method to its end, or to the horizon.

    Args:
        method: Decides.
        traffic: Draws the windows.
        horizon: Seconds after which a rollout that goes on is left as it is.
        recording: Takes down the first rollouts.
    """
    exposed = np.zeros(traffic.runs)
    looks = np.zeros(traffic.runs, dtype=np.int64)
    rows = method.endings.going()
    while rows.size and traffic.look * traffic.model.window < horizon:
        weights = method.weights(rows)
        windows = traffic.draw(rows, weights)
        if recording is not None:
            recording.take(rows, weights, windows)
        exposed[rows] += windows.exposed
        looks[rows] += 1
        method.look(rows, windows)
        rows = method.endings.going()
    end = traffic.look * traffic.model.window
    endings = method.endings
    return Rollouts(endings.ending, np.where(np.isnan(endings.at), end, endings.at), endings.step, exposed, looks)
