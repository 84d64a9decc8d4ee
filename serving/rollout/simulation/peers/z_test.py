"""A two-proportion z-test at every look: what is done where results are watched as they come in.

The steps, shortest times and minimum samples are the policy's; counts add up from the first traffic on. A candidate
goes back as soon as one guardrail is worse by a one-sided pooled z-test at the critical value, which is made for one
look.
"""

from __future__ import annotations

import numpy as np

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.endings import Ending, Endings
from slipway.serving.rollout.simulation.windows import Bools, Windows

FIVE_PERCENT = 1.6448536269514722


class ZTest:
    """R rollouts by a z-test at every look.

    Args:
        policy: Whose steps and guardrails.
        runs: Number of rollouts R.
        critical: The z-score from which on a candidate goes back.
    """

    name = "z-test"

    def __init__(self, policy: RolloutPolicy, runs: int, critical: float = FIVE_PERCENT) -> None:
        self.endings = Endings(runs)
        self._policy = policy
        self._critical = critical
        self._guardrails = [guardrail for guardrail in policy.guardrails if not guardrail.dry_run]
        self._counts: Floats = np.zeros((len(self._guardrails), 4, runs))
        self._step: Ints = np.zeros(runs, dtype=np.int64)
        self._since: Floats = np.zeros(runs)
        self._samples: Ints = np.zeros(runs, dtype=np.int64)

    def weights(self, rows: Ints) -> Ints:
        """Returns the percent of traffic that the candidate has, shape [A]."""
        return np.array([step.weight for step in self._policy.steps], dtype=np.int64)[self._step[rows]]

    def look(self, rows: Ints, windows: Windows) -> None:
        """Takes the windows of the rollouts `rows` in, and decides."""
        now, read = windows.end, windows.readable
        kept = rows[read]
        self._samples[kept] += windows.requests[0][read]
        harmful = np.zeros(len(rows), dtype=np.bool_)
        for index, guardrail in enumerate(self._guardrails):
            own, stable = windows.candidate[guardrail.name], windows.stable[guardrail.name]
            for place, part in enumerate((own.events, own.n, stable.events, stable.n)):
                self._counts[index, place, kept] += part[read]
            harmful |= self._worse(self._counts[index][:, rows], guardrail.higher_is_better)
        self.endings.step[rows] = self._step[rows]
        self.endings.finish(rows[harmful], Ending.HARM, now)
        self._advance(rows[~harmful], now)

    def _worse(self, counts: Floats, higher_is_better: bool) -> Bools:
        x, n, y, m = counts
        pooled = (x + y) / np.maximum(n + m, 1)
        spread = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / np.maximum(n, 1) + 1 / np.maximum(m, 1)), 1e-18))
        difference = x / np.maximum(n, 1) - y / np.maximum(m, 1)
        score = np.where((n > 0) & (m > 0), difference / spread, 0.0)
        return np.asarray((-score if higher_is_better else score) > self._critical)

    def _advance(self, rows: Ints, now: float) -> None:
        steps = self._policy.steps
        shortest = np.array([step.minimum_dwell for step in steps])[self._step[rows]]
        needed = np.array([step.minimum_samples for step in steps])[self._step[rows]]
        due = rows[(now - self._since[rows] >= shortest) & (self._samples[rows] >= needed)]
        last = self._step[due] == len(steps) - 1
        self.endings.finish(due[last], Ending.PROMOTED, now)
        onward = due[~last]
        self._step[onward] += 1
        self._since[onward] = now
        self._samples[onward] = 0
