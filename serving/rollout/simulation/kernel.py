"""A policy of Slipway decided for many rollouts at once.

It follows `decide` for what a simulation shows it: one candidate that is up, a gateway that does what it is asked, and
windows of counts. Its statistics are the core's own functions; its order of questions is that of `core.decide` and
`core.progress`, and `replay` checks on the same windows that both decide alike, look by look.
"""

from __future__ import annotations

import numpy as np

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.assignment import (
    log_evidences_of_mismatch,
    log_split_likelihoods,
    shift_grid,
)
from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.comparison import GuardrailEvidence
from slipway.serving.rollout.simulation.endings import Ending, Endings
from slipway.serving.rollout.simulation.windows import Bools, Windows

_COUNTED = frozenset({"errors", "latency", "fallbacks", "empty", "clicks", "counters"})


def reason_against_kernel(policy: RolloutPolicy) -> str | None:
    """Returns what the kernel cannot decide for many rollouts at once in this policy, or None.

    Such a policy goes through `decide` itself, a rollout at a time.
    """
    if policy.strategy == "shadow":
        return "copies of requests"
    if policy.freeze:
        return "freeze windows"
    for step in policy.steps:
        if step.weight == 0:
            return "a step of weight 0"
        if step.gate:
            return "a gate"
    for guardrail in policy.guardrails:
        if guardrail.kind not in _COUNTED:
            return f"a guardrail of kind {guardrail.kind}"
        if len(guardrail.parts()) > 1:
            return "a guardrail with several objectives"
    return None


class Kernel:
    """R rollouts under one policy.

    Args:
        policy: The policy; `reason_against_kernel` must have nothing against it.
        runs: Number of rollouts R.
    """

    name = "slipway"

    def __init__(self, policy: RolloutPolicy, runs: int) -> None:
        self.policy = policy
        self.endings = Endings(runs)
        self._levels = Levels.of(policy)
        self._weights = np.array([step.weight for step in policy.steps], dtype=np.int64)
        self._step: Ints = np.zeros(runs, dtype=np.int64)
        self._step_since: Floats = np.full(runs, np.nan)
        self._traffic_since: Floats = np.full(runs, np.nan)
        self._mismatch_since: Floats = np.full(runs, np.nan)
        self._evidence = [GuardrailEvidence(policy, guardrail, runs) for guardrail in policy.guardrails]
        self._shifts = shift_grid(policy.ratio_tolerance)
        self._split_sums: Floats = np.zeros((runs, len(self._shifts)))
        self._split_seen: Bools = np.zeros(runs, dtype=np.bool_)

    def weights(self, rows: Ints) -> Ints:
        """Returns the percent of traffic that the candidate has, shape [A]."""
        return np.asarray(self._weights[self._step[rows]])

    def look(self, rows: Ints, windows: Windows) -> None:
        """Takes the windows of the rollouts `rows` in, and decides."""
        now = windows.end
        self._ingest(rows, windows, now)
        mismatch = self._mismatch(rows)
        self._finish(rows[windows.restarts > self.policy.maximum_restarts], Ending.FAULT, now)
        usable = windows.readable & ~mismatch
        failed, met, harmless, passed = self._judge(rows, usable, now)
        stable_bad = np.zeros(len(rows), dtype=np.bool_)
        for evidence in self._evidence:
            if not evidence.guardrail.dry_run:
                stable_bad |= evidence.breaks_limit(rows, 1)
        self._finish(rows[failed & stable_bad], Ending.HELD, now)
        self._finish(rows[failed], Ending.HARM, now)
        self._progress(rows, now, met, harmless, passed, stable_bad, mismatch)

    def _finish(self, rows: Ints, how: Ending, now: float) -> None:
        self.endings.finish(rows, how, now)
        self.endings.step[rows] = self._step[rows]

    def _ingest(self, rows: Ints, windows: Windows, now: float) -> None:
        for evidence in self._evidence:
            name = evidence.guardrail.name
            start = windows.start - windows.late.get(name, 0.0)
            counted = windows.readable & (start >= self._traffic_since[rows])  # NaN where there was no traffic yet
            if counted.any():
                in_step = start[counted] >= self._step_since[rows[counted]]
                seen = windows.rows(counted)
                evidence.take(rows[counted], seen.candidate[name], seen.stable[name], in_step, now)
        weights = self.weights(rows)
        compared = windows.readable & (windows.start >= self._step_since[rows]) & (weights < 100)
        split = rows[compared]
        if split.size:
            candidate_n, stable_n = (part[compared] for part in windows.requests)
            likelihoods = log_split_likelihoods(candidate_n, candidate_n + stable_n, weights[compared], self._shifts)
            sums = self._split_sums[split] + likelihoods
            self._split_sums[split] = sums - sums[:, np.searchsorted(self._shifts, 0.0), None]
            self._split_seen[split] = True

    def _mismatch(self, rows: Ints) -> Bools:
        evidence = log_evidences_of_mismatch(self._split_sums[rows], self._shifts, self.policy.ratio_tolerance)
        return np.asarray(self._split_seen[rows] & (evidence >= self._levels.log_mismatch_needed))

    def _judge(self, rows: Ints, usable: Bools, now: float) -> tuple[Bools, Bools, Bools, Bools]:
        """Returns, of shape [A]: harm is evident; the step's requirements are met; no harm; and all of it is proven."""
        size = len(rows)
        failed = np.zeros(size, dtype=np.bool_)
        met, harmless, passed = (np.ones(size, dtype=np.bool_) for _ in range(3))
        for step in np.unique(self._step[rows]).tolist():
            at = np.flatnonzero(self._step[rows] == step)
            here = rows[at]
            needed = self.policy.steps[step].minimum_samples
            for evidence in self._evidence:
                if evidence.guardrail.dry_run:
                    continue
                bad = evidence.harmful(here, step)
                failed[at] |= bad
                last, since = evidence.last_data[here], self._step_since[here]
                fresh = (last > since) & (now - last <= self.policy.no_data.hold_for)
                enough = fresh & (evidence.step_samples[here] >= needed)
                fine = enough & usable[at] & ~bad
                harmless[at] &= fine
                requirement = self.policy.requirement(step, evidence.guardrail)
                if requirement == "noHarm" and not self.policy.early_promotion:
                    met[at] &= fine
                    continue
                # What is not needed is not computed: a proof only where all else is there.
                proven = np.zeros(len(here), dtype=np.bool_)
                proven[fine] = evidence.proven(here[fine], step)
                passed[at] &= proven if requirement != "better" else False
                if requirement == "better":
                    fine = fine & evidence.improved(here)
                met[at] &= fine if requirement in ("noHarm", "better") else fine & proven
        return failed, met, harmless, passed

    def _progress(
        self, rows: Ints, now: float, met: Bools, harmless: Bools, passed: Bools, stable_bad: Bools, mismatch: Bools
    ) -> None:
        policy = self.policy
        if now > policy.deadline:
            self._finish(rows, Ending.UNPROVEN, now)
        going = self.endings.ending[rows] == Ending.RUNNING
        confirmed = going & ~np.isnan(self._step_since[rows])
        entering = rows[going & ~confirmed]
        self._step_since[entering] = now
        self._traffic_since[entering] = np.where(
            np.isnan(self._traffic_since[entering]), now, self._traffic_since[entering]
        )
        weighed = confirmed & ~(stable_bad & (self.weights(rows) < 100))
        weighed &= ~self._without_data(rows, weighed, now)
        weighed &= ~self._wrongly_split(rows, weighed, mismatch, now)
        dwell = now - self._step_since[rows]
        steps = self._step[rows]
        shortest = np.array([step.minimum_dwell for step in policy.steps])
        deadline = np.array([np.inf if step.deadline is None else step.deadline for step in policy.steps])
        if policy.horizon == "fixed":
            fixed = np.array([step.compares and step.deadline is not None for step in policy.steps])
            shortest = np.where(fixed, np.maximum(shortest, deadline), shortest)
        due = weighed & met & (dwell >= shortest[steps])
        late = weighed & ~due & (dwell > deadline[steps])
        if policy.inconclusive == "rollback":
            self._finish(rows[late], Ending.UNPROVEN, now)
        elif policy.inconclusive == "proceed":
            asks = np.array([step.requires == "better" for step in policy.steps])
            due |= late & harmless & ~asks[steps]
        early = due & passed & (self.weights(rows) < 100) if policy.early_promotion else np.zeros_like(due)
        self._advance(rows[due & ~early], rows[early], now)

    def _without_data(self, rows: Ints, weighed: Bools, now: float) -> Bools:
        missing = np.zeros(len(rows), dtype=np.bool_)
        for evidence in self._evidence:
            if not evidence.guardrail.dry_run:
                since = np.maximum(self._step_since[rows], evidence.last_data[rows])
                missing |= weighed & (now - since > self.policy.no_data.hold_for)
        if self.policy.no_data.then == "rollback":
            self._finish(rows[missing], Ending.NO_DATA, now)
        return missing

    def _wrongly_split(self, rows: Ints, weighed: Bools, mismatch: Bools, now: float) -> Bools:
        wrong = weighed & mismatch
        since = self._mismatch_since[rows]
        since = np.where(wrong & np.isnan(since), now, since)
        self._mismatch_since[rows[wrong]] = since[wrong]
        self._mismatch_since[rows[weighed & ~mismatch]] = np.nan
        if self.policy.no_data.then == "rollback":
            self._finish(rows[wrong & (now - since > self.policy.no_data.hold_for)], Ending.NO_DATA, now)
        return wrong

    def _advance(self, onward: Ints, early: Ints, now: float) -> None:
        last = len(self.policy.steps) - 1
        done = onward[self._step[onward] == last]
        self._finish(done, Ending.PROMOTED, now)
        onward = onward[self._step[onward] < last]
        self._step[onward] += 1
        self._step[early] = last
        for moved in (onward, early):
            self._step_since[moved] = np.nan
            self._split_sums[moved] = 0.0
            self._split_seen[moved] = False
            for evidence in self._evidence:
                evidence.begin_step(moved)
