"""A model of the background analysis of Argo Rollouts.

Follows Argo Rollouts v1.9.1 and its documentation, docs/features/analysis.md: the first example (setWeight 20, 40, 60
and 80 with pauses of 10 minutes, analysis from 40 % on, interval 5m, successCondition `result[0] >= 0.95`,
failureLimit 3, a query with `irate`, which looks at the last two scrapes). Assessment is that of
`assessMetricStatus` and `assessMetricFailureInconclusiveOrError` in analysis/analysis.go, conditions that of
utils/evaluate/evaluate.go:

- the first measurement is taken at once, the others an interval apart;
- more failed measurements than `failureLimit` abort (so four of them with a limit of 3);
- without a failureCondition, what is no success is a failure, a result of 0/0 included;
- with both conditions, what is neither is inconclusive, and more of these than `inconclusiveLimit` (0) pause the
  rollout until a person decides;
- a rollout that completes its steps without such an end is promoted.

The documented query asks for a service; the candidate's own is taken, which is the kinder reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.endings import Ending, Endings
from slipway.serving.rollout.simulation.peers.checks import Check, Measured
from slipway.serving.rollout.simulation.windows import Windows


@dataclass(frozen=True)
class ArgoAnalysis:
    """Steps of a Rollout and its background analysis.

    Args:
        checks: Success conditions, one metric each.
        weights: Percent of each setWeight.
        pause: Seconds after each.
        starting_step: Index among the weights from which on the analysis runs.
        interval: Seconds between two measurements.
        failure_limit: More failed measurements of one metric than this abort.
        failure_conditions: Limits beyond which a measurement has failed; None takes what is no success for a failure.
        inconclusive_limit: More inconclusive measurements of one metric than this pause the rollout.
    """

    checks: tuple[Check, ...]
    weights: tuple[int, ...] = (20, 40, 60, 80)
    pause: float = 600.0
    starting_step: int = 1
    interval: float = 300.0
    failure_limit: int = 3
    failure_conditions: tuple[float, ...] | None = None
    inconclusive_limit: int = 0


class ArgoRollouts:
    """R rollouts with one background analysis.

    Args:
        analysis: Its settings.
        runs: Number of rollouts R.
        seed: Of the part of events that a latency check counts.
    """

    name = "argo-rollouts"

    def __init__(self, analysis: ArgoAnalysis, runs: int, seed: int = 0) -> None:
        self.endings = Endings(runs)
        self._analysis = analysis
        self._measured = Measured(analysis.checks, runs, seed)
        self._step: Ints = np.zeros(runs, dtype=np.int64)
        self._failed: Ints = np.zeros((len(analysis.checks), runs), dtype=np.int64)
        self._inconclusive: Ints = np.zeros((len(analysis.checks), runs), dtype=np.int64)
        self._next: Floats = np.full(runs, analysis.starting_step * analysis.pause)

    def weights(self, rows: Ints) -> Ints:
        """Returns the percent of traffic that the candidate has, shape [A]."""
        return np.array(self._analysis.weights, dtype=np.int64)[self._step[rows]]

    def look(self, rows: Ints, windows: Windows) -> None:
        """Takes the windows of the rollouts `rows` in, and decides where a measurement or a step is due."""
        analysis, now = self._analysis, windows.end
        read = rows[windows.readable]
        self._measured.clear(read)
        self._measured.add(rows, windows)
        self._measure(rows[self._next[rows] <= now + 1e-9], now)
        self.endings.step[rows] = self._step[rows]
        going = rows[self.endings.ending[rows] == Ending.RUNNING]
        over = going[now + 1e-9 >= (self._step[going] + 1) * analysis.pause]
        last = self._step[over] == len(analysis.weights) - 1
        self.endings.finish(over[last], Ending.PROMOTED, now)
        self._step[over[~last]] += 1

    def _measure(self, due: Ints, now: float) -> None:
        analysis = self._analysis
        if not due.size:
            return
        self._next[due] += analysis.interval
        for index, check in enumerate(analysis.checks):
            share = self._measured.shares(index, due)
            success = share >= check.limit if check.higher_is_better else share <= check.limit
            failure = ~success
            if analysis.failure_conditions is not None:
                limit = analysis.failure_conditions[index]
                failure = share < limit if check.higher_is_better else share > limit
            self._failed[index, due] += failure
            self._inconclusive[index, due] += ~success & ~failure
        held = due[(self._inconclusive[:, due] > analysis.inconclusive_limit).any(axis=0)]
        aborted = due[(self._failed[:, due] > analysis.failure_limit).any(axis=0)]
        self.endings.finish(aborted, Ending.HARM, now)
        self.endings.finish(held, Ending.HELD, now)
