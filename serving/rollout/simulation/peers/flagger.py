"""A model of Flagger's canary analysis.

Follows Flagger v1.44.0: `advanceCanary`, `runAnalysis` and `runCanary` of pkg/controller/scheduler.go,
`runBuiltinMetricChecks` of scheduler_metrics.go, the queries of pkg/metrics/observers/istio.go, and the settings of the
example in docs/gitbook/usage/how-it-works.md (interval 1m, threshold 10, maxWeight 50, stepWeight 5, success rate at
least 99 %, duration at most 500 ms).

At every interval, in this order: with `threshold` failed checks, go back; else check the metrics of the candidate over
the last interval, the first that fails (or has no value) adding one failed check and keeping the weight; else add
`stepWeight`, or promote where the weight has reached `maxWeight`. A check that passes takes no failed check away.
Stable is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.endings import Ending, Endings
from slipway.serving.rollout.simulation.peers.checks import Check, Measured
from slipway.serving.rollout.simulation.windows import Windows


@dataclass(frozen=True)
class FlaggerAnalysis:
    """The `analysis` of a Canary.

    Args:
        checks: Metrics with their limits.
        interval: Seconds between two checks, each over that time.
        threshold: Failed checks before going back.
        maximum_weight: Percent at which a check that passes promotes.
        step_weight: Percent added by each check that passes.
    """

    checks: tuple[Check, ...]
    interval: float = 60.0
    threshold: int = 10
    maximum_weight: int = 50
    step_weight: int = 5


class Flagger:
    """R canaries under one analysis.

    Args:
        analysis: Its settings.
        runs: Number of rollouts R.
        seed: Of the part of events that a latency check counts.
    """

    name = "flagger"

    def __init__(self, analysis: FlaggerAnalysis, runs: int, seed: int = 0) -> None:
        self.endings = Endings(runs)
        self._analysis = analysis
        self._measured = Measured(analysis.checks, runs, seed)
        self._weight: Ints = np.full(runs, analysis.step_weight, dtype=np.int64)
        self._failed: Ints = np.zeros(runs, dtype=np.int64)
        self._next: Floats = np.full(runs, analysis.interval)

    def weights(self, rows: Ints) -> Ints:
        """Returns the percent of traffic that the candidate has, shape [A]."""
        return np.asarray(self._weight[rows])

    def look(self, rows: Ints, windows: Windows) -> None:
        """Takes the windows of the rollouts `rows` in, and decides where an interval has passed."""
        analysis = self._analysis
        self._measured.add(rows, windows)
        due = rows[self._next[rows] <= windows.end + 1e-9]
        if not due.size:
            return
        self._next[due] += analysis.interval
        over = self._failed[due] >= analysis.threshold
        self.endings.finish(due[over], Ending.HARM, windows.end)
        checked = due[~over]
        good = self._measured.passes(checked)
        self._failed[checked[~good]] += 1
        onward = checked[good]
        full = self._weight[onward] >= analysis.maximum_weight
        self.endings.finish(onward[full], Ending.PROMOTED, windows.end)
        self._weight[onward[~full]] = np.minimum(self._weight[onward[~full]] + analysis.step_weight, 100)
        self.endings.step[due] = self._weight[due]
        self._measured.clear(due)
