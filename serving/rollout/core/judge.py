"""Evidence into verdicts: PASS, FAIL, INCONCLUSIVE or ERROR per guardrail, with value, bounds and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, Guardrail, RolloutPolicy
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.assignment import log_evidence_of_mismatch, shift_grid
from slipway.serving.rollout.core.evidence import bounds, log_evidence_below, log_mean_exp, point_estimate
from slipway.serving.rollout.core.explain import split_sentence, verdict_sentence
from slipway.serving.rollout.core.ingest import grid_of, key_of, limit_of, log_margins
from slipway.serving.rollout.core.proportions import difference_interval, rate_interval
from slipway.serving.rollout.core.types import Clock, Comparison, Counts, Observations, Outcome, State, Verdict


@dataclass(frozen=True)
class _Finding:
    """One way of looking at a guardrail, as an odds ratio, a difference or a rate of bad events."""

    measure: str
    value: float
    lower: float
    upper: float
    margin: float
    harmful: bool
    proven: bool


def judge(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> tuple[Verdict, ...]:
    """Returns a verdict per candidate and guardrail, and one on the traffic split per candidate that was compared."""
    levels = Levels.of(policy, len(state.candidates))
    verdicts = []
    for candidate in state.active:
        split = _judge_split(state, candidate.arm, policy, levels)
        void = None if split is None or split.met else split.explanation
        for guardrail in policy.guardrails:
            problem = observations.metrics_error or _clock(state, guardrail).error or void
            verdicts.append(_judge(state, guardrail, candidate.arm, policy, levels, problem, now))
        if split is not None:
            verdicts.append(split)
    return tuple(verdicts)


def arm_breaks_limit(state: State, arm: str, policy: RolloutPolicy) -> bool:
    """Returns whether an arm breaks the hard limit of a guardrail that decides, by the evidence at hand."""
    levels = Levels.of(policy, len(state.candidates))
    return any(_breaks_limit(state, guardrail, arm, levels) for guardrail in policy.guardrails if not guardrail.dry_run)


def _clock(state: State, guardrail: Guardrail) -> Clock:
    return state.clocks.get(guardrail.name, Clock())


def _breaks_limit(state: State, guardrail: Guardrail, arm: str, levels: Levels) -> bool:
    evidence = state.limits.get(key_of(guardrail.name, arm))
    if guardrail.hard_limit is None or evidence is None or evidence.key != (limit_of(guardrail),):
        return False
    if evidence.n < guardrail.hard_limit.minimum_samples:
        return False
    return log_mean_exp(np.array(evidence.log_mixture)) >= levels.log_harm_needed


def _judge(
    state: State,
    guardrail: Guardrail,
    arm: str,
    policy: RolloutPolicy,
    levels: Levels,
    problem: str | None,
    now: float,
) -> Verdict:
    key = key_of(guardrail.name, arm)
    comparison = state.comparisons.get(key)
    index = min(state.step, len(policy.steps) - 1)
    step, requirement = policy.steps[index], policy.requirement(index, guardrail)
    findings = [] if comparison is None else _findings(guardrail, comparison, levels)
    broken = _breaks_limit(state, guardrail, arm, levels)
    if broken or (findings and all(finding.harmful for finding in findings)):
        outcome = Outcome.FAIL
    elif problem is not None:
        outcome = Outcome.ERROR
    else:
        outcome = Outcome.PASS if any(finding.proven for finding in findings) else Outcome.INCONCLUSIVE
    samples = state.step_samples.get(key, 0)
    # At weight 0 no requests come, and none are waited for.
    waits = step.weight > 0 or step.mirror > 0
    enough = samples >= step.minimum_samples and (_fresh(state, guardrail, policy, now) or not waits)
    total = Counts() if comparison is None else comparison.total
    verdict = Verdict(
        guardrail=guardrail.name,
        arm=arm,
        outcome=outcome,
        requirement=requirement,
        enough=enough,
        met=enough and (outcome is Outcome.PASS or (outcome is Outcome.INCONCLUSIVE and requirement == "noHarm")),
        measure="odds_ratio" if guardrail.margin.odds_ratio is not None else "difference",
        value=None,
        lower=None,
        upper=None,
        margin=guardrail.margin.odds_ratio or guardrail.margin.absolute,
        candidate_rate=_event_rate(guardrail, total.candidate_bad, total.candidate_n),
        stable_rate=_event_rate(guardrail, total.stable_bad, total.stable_n),
        samples=total.candidate_n,
        stable_samples=total.stable_n,
        step_samples=samples,
        minimum_samples=step.minimum_samples,
        log_evidence_harm=0.0 if comparison is None else log_mean_exp(np.array(comparison.log_harm)),
        log_evidence_needed=levels.log_harm_needed,
        explanation="",
        dry_run=guardrail.dry_run,
    )
    shown = _limit_finding(guardrail, total, levels) if broken else _shown(findings, total)
    if shown is not None:
        verdict = _in_users_direction(verdict, shown, guardrail)
    return replace(verdict, explanation=verdict_sentence(verdict, guardrail, problem))


def _fresh(state: State, guardrail: Guardrail, policy: RolloutPolicy, now: float) -> bool:
    last = _clock(state, guardrail).last_data
    return (
        last is not None
        and state.step_since is not None
        and last > state.step_since
        and now - last <= policy.no_data.hold_for
    )


def _findings(guardrail: Guardrail, comparison: Comparison, levels: Levels) -> list[_Finding]:
    """Returns what the evidence says, once for each margin given."""
    findings = []
    if guardrail.margin.odds_ratio is not None and len(comparison.log_sums) == len(grid_of(guardrail)[0]):
        findings.append(_odds_ratio(guardrail, comparison, levels))
    if guardrail.margin.absolute is not None:
        findings.append(_difference(guardrail, comparison, levels))
    return findings


def _odds_ratio(guardrail: Guardrail, comparison: Comparison, levels: Levels) -> _Finding:
    grid, _ = grid_of(guardrail)
    sums = np.array(comparison.log_sums)
    margin = log_margins(guardrail)[0] or 0.0
    lower, upper = bounds(sums, grid, levels.harm, levels.proof(guardrail))
    return _Finding(
        "odds_ratio",
        point_estimate(sums, grid),
        lower,
        upper,
        margin,
        harmful=log_mean_exp(np.array(comparison.log_harm)) >= levels.log_harm_needed,
        proven=log_evidence_below(sums, grid, margin) >= math.log(1 / levels.proof(guardrail)),
    )


def _difference(guardrail: Guardrail, comparison: Comparison, levels: Levels) -> _Finding:
    margin = guardrail.margin.absolute or 0.0
    step, recent = comparison.step, comparison.recent
    lower = max(
        _difference_of(step, levels.step)[0],
        _difference_of(recent, levels.epoch(comparison.epoch))[0],
    )
    upper = _difference_of(step, levels.proof(guardrail))[1]
    value = math.nan
    if step.candidate_n and step.stable_n:
        value = step.candidate_bad / step.candidate_n - step.stable_bad / step.stable_n
    return _Finding("difference", value, lower, upper, margin, harmful=lower > margin, proven=upper <= margin)


def _difference_of(counts: Counts, alpha: float) -> tuple[float, float]:
    return difference_interval(counts.candidate_bad, counts.candidate_n, counts.stable_bad, counts.stable_n, alpha)


def _limit_finding(guardrail: Guardrail, total: Counts, levels: Levels) -> _Finding:
    rate = total.candidate_bad / total.candidate_n if total.candidate_n else math.nan
    lower, upper = rate_interval(total.candidate_bad, total.candidate_n, levels.harm)
    return _Finding("hard_limit", rate, lower, upper, limit_of(guardrail) or 0.0, harmful=True, proven=False)


def _shown(findings: list[_Finding], total: Counts) -> _Finding | None:
    """Returns the finding that the verdict rests on: the one that proves it, else the odds ratio where it says much."""
    if not findings:
        return None
    proving = [finding for finding in findings if finding.proven]
    if proving:
        return proving[0]
    return findings[-1] if total.candidate_bad + total.stable_bad == 0 else findings[0]


def _in_users_direction(verdict: Verdict, finding: _Finding, guardrail: Guardrail) -> Verdict:
    """Returns the verdict with the finding's numbers, turned from bad events into events where higher is better."""
    value, lower, upper, margin = finding.value, finding.lower, finding.upper, finding.margin
    if guardrail.higher_is_better:
        whole = 1.0 if finding.measure == "hard_limit" else 0.0  # A rate turns into its complement, an effect round 0.
        value, lower, upper, margin = (whole - number for number in (value, upper, lower, margin))
    if finding.measure == "odds_ratio":
        value, lower, upper, margin = (_exp(number) for number in (value, lower, upper, margin))
    return replace(
        verdict,
        measure=finding.measure,
        value=_finite(value),
        lower=_finite(lower),
        upper=_finite(upper),
        margin=_finite(margin),
    )


def _exp(log_value: float) -> float:
    """Returns exp of a log odds ratio; not finite where nothing is known about that side."""
    return math.exp(log_value) if math.isfinite(log_value) else math.inf


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _event_rate(guardrail: Guardrail, bad: int, n: int) -> float | None:
    if n == 0:
        return None
    return (n - bad) / n if guardrail.higher_is_better else bad / n


def _judge_split(state: State, arm: str, policy: RolloutPolicy, levels: Levels) -> Verdict | None:
    evidence = state.splits.get(arm)
    if evidence is None or evidence.key != (policy.ratio_tolerance,):
        return None
    shifts = shift_grid(policy.ratio_tolerance)
    log_evidence = log_evidence_of_mismatch(np.array(evidence.log_sums), shifts, policy.ratio_tolerance)
    mismatch = log_evidence >= levels.log_mismatch_needed
    shift = math.exp(point_estimate(np.array(evidence.log_sums), shifts))
    verdict = Verdict(
        guardrail=ASSIGNMENT,
        arm=arm,
        outcome=Outcome.ERROR if mismatch else Outcome.PASS,
        requirement="noHarm",
        enough=True,
        met=not mismatch,
        measure="odds_ratio",
        value=shift,
        lower=None,
        upper=None,
        margin=1 + policy.ratio_tolerance,
        candidate_rate=evidence.candidate_n / evidence.total_n if evidence.total_n else None,
        stable_rate=None,
        samples=evidence.candidate_n,
        stable_samples=evidence.total_n - evidence.candidate_n,
        step_samples=0,
        minimum_samples=0,
        log_evidence_harm=log_evidence,
        log_evidence_needed=levels.log_mismatch_needed,
        explanation="",
    )
    return replace(verdict, explanation=split_sentence(verdict, state.weights.get(arm, 0)))
