"""Evidence into verdicts: PASS, FAIL, INCONCLUSIVE or ERROR per guardrail, with value, bounds and samples."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, Guardrail, Requirement, RolloutPolicy
from slipway.serving.rollout.core import findings as found
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.assignment import log_evidence_of_mismatch, shift_grid
from slipway.serving.rollout.core.evidence import log_mean_exp, point_estimate
from slipway.serving.rollout.core.explain import split_sentence, verdict_sentence
from slipway.serving.rollout.core.findings import Finding
from slipway.serving.rollout.core.ingest import key_of, limit_of
from slipway.serving.rollout.core.observations import Observations
from slipway.serving.rollout.core.odds_grid import odds_grid
from slipway.serving.rollout.core.types import Clock, Counts, Outcome, State, Verdict

_WORST_FIRST = (Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.PASS)


def judge(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> tuple[Verdict, ...]:
    """Returns a verdict per candidate and guardrail, and one on the traffic split per candidate that was compared."""
    index = min(state.step, len(policy.steps) - 1)
    guardrails = [policy.at_step(index, guardrail) for guardrail in policy.guardrails]
    levels = Levels.of(policy, len(state.candidates))
    verdicts = []
    for candidate in state.active:
        split = _judge_split(state, candidate.arm, policy, levels)
        void = None if split is None or split.met else split.explanation
        for guardrail in guardrails:
            problem = observations.metrics_error or _clock(state, guardrail.name).error or void
            verdicts.append(_judge(state, guardrail, candidate.arm, policy, index, problem, now))
        if split is not None:
            verdicts.append(split)
    return tuple(verdicts)


def arm_breaks_limit(state: State, arm: str, policy: RolloutPolicy) -> bool:
    """Returns whether an arm breaks the hard limit of a guardrail that decides, by the evidence at hand."""
    return any(
        _breaks_limit(state, part, arm, _levels(policy, guardrail, len(state.candidates)))
        for guardrail in policy.guardrails
        if not guardrail.dry_run
        for part in guardrail.parts()
    )


def _levels(policy: RolloutPolicy, guardrail: Guardrail, candidates: int) -> Levels:
    """Returns the levels of a guardrail's tests: harm shared among its parts, proofs among the candidates.

    Each candidate may be called proven, or better, and one of them goes on: without sharing, many bad ones would have
    many chances.
    """
    levels = Levels.of(policy, candidates)
    return replace(levels, harm=levels.harm / len(guardrail.parts()), all=levels.all / max(1, candidates))


def _clock(state: State, guardrail: str) -> Clock:
    return state.clocks.get(guardrail, Clock())


def _breaks_limit(state: State, guardrail: Guardrail, arm: str, levels: Levels) -> bool:
    evidence = state.limits.get(key_of(guardrail.name, arm))
    if guardrail.hard_limit is None or evidence is None or evidence.key != (limit_of(guardrail),):
        return False
    if evidence.n < guardrail.hard_limit.minimum_samples:
        return False
    return log_mean_exp(np.array(evidence.log_mixture)) >= levels.log_harm_needed


def _judge(
    state: State, guardrail: Guardrail, arm: str, policy: RolloutPolicy, index: int, problem: str | None, now: float
) -> Verdict:
    """Returns the verdict of a guardrail; of several parts, the worst, met only if all of them are."""
    levels = _levels(policy, guardrail, len(state.candidates))
    requirement = policy.requirement(index, guardrail)
    parts = [
        _judge_part(state, part, arm, policy, index, levels, requirement, problem, now) for part in guardrail.parts()
    ]
    if len(parts) == 1:
        return parts[0]
    worst = min(parts, key=lambda one: (_WORST_FIRST.index(one.outcome), one.met, -one.log_evidence_harm))
    return replace(
        worst,
        guardrail=guardrail.name,
        enough=all(part.enough for part in parts),
        met=all(part.met for part in parts),
        improved=all(part.improved for part in parts),
        step_samples=min(part.step_samples for part in parts),
        part=next(part.objective for part, verdict in zip(guardrail.parts(), parts, strict=True) if verdict is worst),
    )


def _judge_part(
    state: State,
    guardrail: Guardrail,
    arm: str,
    policy: RolloutPolicy,
    index: int,
    levels: Levels,
    requirement: Requirement,
    problem: str | None,
    now: float,
) -> Verdict:
    key, step = key_of(guardrail.name, arm), policy.steps[index]
    findings = _findings(state, guardrail, key, policy, levels)
    broken = _breaks_limit(state, guardrail, arm, levels)
    if broken or (findings and all(finding.harmful for finding in findings)):
        outcome = Outcome.FAIL
    elif problem is not None:
        outcome = Outcome.ERROR
    else:
        outcome = Outcome.PASS if any(finding.proven for finding in findings) else Outcome.INCONCLUSIVE
    # Harm needs every margin to be exceeded: the evidence is what the slowest of them has.
    slowest = min(findings, key=lambda finding: finding.log_harm - finding.log_harm_needed, default=None)
    samples = state.step_samples.get(key, 0)
    # At weight 0 no requests come, and none are waited for.
    waits = step.weight > 0 or step.mirror > 0
    enough = samples >= step.minimum_samples and (_fresh(state, guardrail, policy, now) or not waits)
    improved = any(finding.improved for finding in findings)
    fulfilled = {
        "noHarm": outcome in (Outcome.PASS, Outcome.INCONCLUSIVE),
        "proven": outcome is Outcome.PASS,
        "better": outcome is Outcome.PASS and improved,
    }
    verdict = Verdict(
        guardrail=guardrail.name,
        arm=arm,
        outcome=outcome,
        requirement=requirement,
        enough=enough,
        met=enough and fulfilled[requirement],
        measure=_measure(guardrail),
        value=None,
        lower=None,
        upper=None,
        margin=guardrail.margin.odds_ratio or guardrail.margin.absolute,
        candidate_rate=None,
        stable_rate=None,
        samples=0,
        stable_samples=0,
        step_samples=samples,
        minimum_samples=step.minimum_samples,
        log_evidence_harm=0.0 if slowest is None else slowest.log_harm,
        log_evidence_needed=levels.log_harm_needed if slowest is None else slowest.log_harm_needed,
        explanation="",
        dry_run=guardrail.dry_run,
        improved=improved,
    )
    verdict = _with_arms(verdict, state, guardrail, key)
    comparison = state.comparisons.get(key)
    total = Counts() if comparison is None else comparison.total
    shown = found.hard_limit(guardrail, total, levels) if broken else _shown(findings, total, requirement)
    if shown is not None:
        verdict = _with_lift(_in_users_direction(verdict, shown, guardrail))
    return replace(verdict, explanation=verdict_sentence(verdict, guardrail, problem))


def _measure(guardrail: Guardrail) -> str:
    if guardrail.is_similarity:
        return guardrail.kind
    if guardrail.is_mean or guardrail.kind == "scores":
        return "mean_difference" if guardrail.is_mean else "stability_index"
    return "odds_ratio" if guardrail.margin.odds_ratio is not None else "difference"


def _fresh(state: State, guardrail: Guardrail, policy: RolloutPolicy, now: float) -> bool:
    last = _clock(state, guardrail.name).last_data
    return (
        last is not None
        and state.step_since is not None
        and last > state.step_since
        and now - last <= policy.no_data.hold_for
    )


def _findings(state: State, guardrail: Guardrail, key: str, policy: RolloutPolicy, levels: Levels) -> list[Finding]:
    """Returns what the evidence says, once for each margin given."""
    if guardrail.is_mean:
        mean = None if key not in state.means else found.mean_difference(guardrail, state.means[key], policy, levels)
        return [] if mean is None else [mean]
    if guardrail.is_similarity:
        alike = state.similarities.get(key)
        return [] if alike is None else found.similarity_limit(guardrail, alike, levels)
    if guardrail.kind == "scores":
        return [found.stability_index(guardrail, state.drifts[key], levels)] if key in state.drifts else []
    comparison = state.comparisons.get(key)
    if comparison is None or comparison.key != odds_grid(policy, guardrail).key:
        return []
    ratio = found.odds_ratio(guardrail, comparison, policy, levels)
    findings = [] if ratio is None else [ratio]
    return (
        findings
        if guardrail.margin.absolute is None
        else [*findings, found.difference(guardrail, comparison, policy, levels)]
    )


def _with_arms(verdict: Verdict, state: State, guardrail: Guardrail, key: str) -> Verdict:
    """Returns the verdict with what was seen of each arm: rates of events, or means, and how many samples."""
    if guardrail.is_mean:
        if key not in state.means:
            return verdict
        mean, scale = state.means[key], guardrail.scale
        return replace(
            verdict,
            candidate_rate=scale * mean.candidate_total / mean.candidate_n if mean.candidate_n else None,
            stable_rate=scale * mean.stable_total / mean.stable_n if mean.stable_n else None,
            samples=mean.candidate_n,
            stable_samples=mean.stable_n,
        )
    if guardrail.is_similarity:
        alike = state.similarities.get(key)
        return verdict if alike is None else replace(verdict, samples=alike.n)
    if guardrail.kind == "scores":
        if key not in state.drifts:
            return verdict
        drift = state.drifts[key]
        return replace(verdict, samples=round(sum(drift.candidate)), stable_samples=round(sum(drift.stable)))
    if key not in state.comparisons:
        return verdict
    total = state.comparisons[key].total
    return replace(
        verdict,
        candidate_rate=_event_rate(guardrail, total.candidate_bad, total.candidate_n),
        stable_rate=_event_rate(guardrail, total.stable_bad, total.stable_n),
        samples=total.candidate_n,
        stable_samples=total.stable_n,
    )


def _shown(findings: list[Finding], total: Counts, requirement: Requirement) -> Finding | None:
    """Returns the finding that the verdict rests on: the one that proves it, else the odds ratio where it says much."""
    if not findings:
        return None
    proving = [finding for finding in findings if finding.proven]
    if requirement == "better" or len(findings) == 1:
        return findings[0]
    if proving:
        return proving[0]
    return findings[-1] if total.candidate_bad + total.stable_bad == 0 else findings[0]


def _in_users_direction(verdict: Verdict, finding: Finding, guardrail: Guardrail) -> Verdict:
    """Returns the verdict with the finding's numbers, turned from bad events into events where higher is better."""
    numbers = (finding.value, finding.lower, finding.upper, finding.margin)
    value, lower, upper, margin = numbers
    if guardrail.higher_is_better:
        # A rate turns into its complement, an effect round 0.
        whole = 1.0 if finding.measure == "hard_limit" or guardrail.is_similarity else 0.0
        value, lower, upper, margin = (whole - number for number in (value, upper, lower, margin))
    if finding.measure == "odds_ratio":
        value, lower, upper, margin = (_exp(number) for number in (value, lower, upper, margin))
    if finding.measure == "mean_difference":
        value, lower, upper, margin = (number * guardrail.scale for number in (value, lower, upper, margin))
    if finding.measure == "rank_correlation":
        value, lower, upper, margin = (2 * number - 1 for number in (value, lower, upper, margin))
    return replace(
        verdict,
        measure=finding.measure,
        value=_finite(value),
        lower=_finite(lower),
        upper=_finite(upper),
        margin=_finite(margin),
    )


def _with_lift(verdict: Verdict) -> Verdict:
    """Returns the verdict with its odds ratio as a relative change of the rate, at stable's rate of all windows."""
    if verdict.measure != "odds_ratio" or not verdict.stable_rate:
        return verdict
    rate = verdict.stable_rate

    def lift(ratio: float | None) -> float | None:
        return None if ratio is None else ratio / (1 - rate + rate * ratio) - 1

    return replace(verdict, lift=lift(verdict.value), lift_lower=lift(verdict.lower), lift_upper=lift(verdict.upper))


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
    return replace(verdict, explanation=split_sentence(verdict, state.weights.get(arm, 0), policy.assignment))
