"""The evidence of one guardrail in many rollouts at once: what `core.ingest` keeps for one, row by row.

Every number comes from the functions of the core that `decide` itself calls, with a leading axis of rollouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from slipway.contracts.rollout import Guardrail, RolloutPolicy
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.differences import BEYOND, MEMORY, guess_of, log_difference_ratios
from slipway.serving.rollout.core.evidence import (
    log_evidences_below,
    log_mean_exps,
    start_any_time,
    update_any_time,
)
from slipway.serving.rollout.core.hypergeometric import Floats, Ints, log_likelihoods
from slipway.serving.rollout.core.ingest import limit_of
from slipway.serving.rollout.core.odds_grid import log_lift, log_margins, odds_grid
from slipway.serving.rollout.core.proportions import difference_intervals, log_limit_ratios, rates_beyond
from slipway.serving.rollout.simulation.windows import ArmCounts, Bools

_LIMIT_ROOM = 3.0


@dataclass
class CountsOf:
    """Bad events out of n of candidate and stable, shape [R] each."""

    runs: int
    candidate_bad: Ints = field(init=False)
    candidate_n: Ints = field(init=False)
    stable_bad: Ints = field(init=False)
    stable_n: Ints = field(init=False)

    def __post_init__(self) -> None:
        for name in ("candidate_bad", "candidate_n", "stable_bad", "stable_n"):
            setattr(self, name, np.zeros(self.runs, dtype=np.int64))

    def add(self, rows: Ints, counts: tuple[Ints, Ints, Ints, Ints]) -> None:
        """Adds the counts of windows."""
        self.candidate_bad[rows] += counts[0]
        self.candidate_n[rows] += counts[1]
        self.stable_bad[rows] += counts[2]
        self.stable_n[rows] += counts[3]

    def clear(self, rows: Ints) -> None:
        """Sets the counts of some rollouts to zero."""
        for part in (self.candidate_bad, self.candidate_n, self.stable_bad, self.stable_n):
            part[rows] = 0

    def difference(self, rows: Ints, alpha: float | Floats) -> tuple[Floats, Floats]:
        """Returns the confidence sequence for the difference of rates, shape [A] each."""
        return difference_intervals(
            self.candidate_bad[rows], self.candidate_n[rows], self.stable_bad[rows], self.stable_n[rows], alpha
        )


class GuardrailEvidence:
    """What is known of one guardrail in R rollouts.

    Args:
        policy: The policy.
        guardrail: One of its guardrails.
        runs: Number of rollouts R.
    """

    def __init__(self, policy: RolloutPolicy, guardrail: Guardrail, runs: int) -> None:
        self.guardrail = guardrail
        self.levels = Levels.of(policy)
        self.grid = odds_grid(policy, guardrail)
        self.at_step = [policy.at_step(index, guardrail) for index in range(len(policy.steps))]
        self.log_sums: Floats = np.zeros((runs, len(self.grid.points)))
        self.log_harm: Floats = np.tile(start_any_time(self.grid.mixture_size), (runs, 1))
        self.windows: Ints = np.zeros(runs, dtype=np.int64)
        self.log_beyond: Floats = np.tile(start_any_time(len(self.grid.differences) * len(BEYOND)), (runs, 1))
        self.base: Floats = np.zeros((2, runs))
        self.step = CountsOf(runs)
        self.step_samples: Ints = np.zeros(runs, dtype=np.int64)
        self.last_data: Floats = np.full(runs, -np.inf)
        self.limit = limit_of(guardrail)
        if self.limit is not None:
            self.rates = rates_beyond(self.limit)
            self.log_limits = {arm: np.tile(start_any_time(len(self.rates)), (runs, 1)) for arm in (0, 1)}
            self.limit_n: Ints = np.zeros((2, runs), dtype=np.int64)

    def take(self, rows: Ints, candidate: ArmCounts, stable: ArmCounts, in_step: Bools, now: float) -> None:
        """Takes one window of each of the rollouts `rows` in; all arguments of shape [A]."""
        counts = (self._bad(candidate), candidate.n, self._bad(stable), stable.n)
        inside = rows[in_step]
        own = tuple(part[in_step] for part in counts)
        counts_inside = (own[0], own[1], own[2], own[3])
        self.step_samples[inside] += counts_inside[1]
        self._take_limits(rows, counts)
        likelihoods = log_likelihoods(counts[0], counts[1], counts[3], counts[0] + counts[2], self.grid.points)
        ratios = [
            likelihoods[:, self.grid.alternatives(harm)] - likelihoods[:, self.grid.at(harm), None]
            for harm in self.grid.harms
        ]
        self.log_sums[rows] += likelihoods - likelihoods[:, self.grid.at(0.0), None]
        self.log_harm[rows] = update_any_time(
            self.log_harm[rows], np.concatenate(ratios, axis=1), self.windows[rows], math.inf
        )
        if self.grid.differences:
            beyond = [
                log_difference_ratios(*counts, guess_of(self.base[0, rows], self.base[1, rows], margin), margin)
                for margin in self.grid.differences
            ]
            self.log_beyond[rows] = update_any_time(
                self.log_beyond[rows], np.concatenate(beyond, axis=1), self.windows[rows], math.inf
            )
        self.base[:, rows] = MEMORY * self.base[:, rows] + np.stack(counts[2:])
        self.windows[rows] += 1
        self.step.add(inside, counts_inside)
        self.last_data[rows[candidate.n > 0]] = now

    def begin_step(self, rows: Ints) -> None:
        """Sets what belongs to one step to zero."""
        self.step.clear(rows)
        self.step_samples[rows] = 0

    def harmful(self, rows: Ints, step: int) -> Bools:
        """Returns whether every margin of the guardrail at a step is exceeded by the evidence, or its limit broken."""
        guardrail = self.at_step[step]
        _, harm = log_margins(guardrail)
        bad = self.windows[rows] > 0
        if harm is not None:
            level = self.levels.harm / len(self.grid.harms)
            log_harm = log_mean_exps(self.log_harm[rows][:, self.grid.mixture(harm)])
            bad = bad & (log_harm >= math.log(1 / level))
        if guardrail.margin.absolute is not None:
            level = self.levels.harm / len(self.grid.differences)
            begin = self.grid.differences.index(guardrail.margin.absolute) * len(BEYOND)
            log_beyond = log_mean_exps(self.log_beyond[rows, begin : begin + len(BEYOND)])
            bad = bad & (log_beyond >= math.log(1 / level))
        return np.asarray(bad | self.breaks_limit(rows, 0))

    def proven(self, rows: Ints, step: int) -> Bools:
        """Returns whether the bound lies inside the margin of a step, shape [A]."""
        guardrail = self.at_step[step]
        level = self.levels.proof(guardrail)
        margin, _ = log_margins(guardrail)
        good = np.zeros(len(rows), dtype=np.bool_)
        if margin is not None:
            below = log_evidences_below(self.log_sums[rows], self.grid.points, margin)
            good = (self.windows[rows] > 0) & (below >= math.log(1 / level))
        if guardrail.margin.absolute is not None and not good.all():
            asked = ~good & (self.windows[rows] > 0)
            _, upper = self.step.difference(rows[asked], level)
            good[np.flatnonzero(asked)] = upper <= guardrail.margin.absolute
        return good

    def improved(self, rows: Ints) -> Bools:
        """Returns whether the candidate is proven to exceed the minimum lift, shape [A]."""
        below = log_evidences_below(self.log_sums[rows], self.grid.points, log_lift(self.guardrail))
        return np.asarray((self.windows[rows] > 0) & (below >= math.log(1 / self.levels.all)))

    def breaks_limit(self, rows: Ints, arm: int) -> Bools:
        """Returns whether an arm (0 the candidate, 1 stable) breaks the hard limit, shape [A]."""
        if self.limit is None or self.guardrail.hard_limit is None:
            return np.zeros(len(rows), dtype=np.bool_)
        enough = self.limit_n[arm, rows] >= self.guardrail.hard_limit.minimum_samples
        evidence = log_mean_exps(self.log_limits[arm][rows])
        return np.asarray(enough & (evidence >= self.levels.log_harm_needed))

    def _take_limits(self, rows: Ints, counts: tuple[Ints, Ints, Ints, Ints]) -> None:
        if self.limit is None:
            return
        ceiling = self.levels.log_harm_needed + _LIMIT_ROOM
        for arm, (bad, n) in enumerate((counts[:2], counts[2:])):
            ratios = log_limit_ratios(bad, n, self.limit, self.rates)
            mixture = self.log_limits[arm]
            mixture[rows] = update_any_time(mixture[rows], ratios, self.windows[rows], ceiling)
            self.limit_n[arm, rows] += n

    def _bad(self, arm: ArmCounts) -> Ints:
        return arm.n - arm.events if self.guardrail.higher_is_better else arm.events
