"""Why, in words: one sentence per verdict, and the whole standing of a rollout for a person on call."""

from __future__ import annotations

import math
from typing import Literal

from slipway.contracts.durations import describe_seconds
from slipway.contracts.rollout import Guardrail, RolloutPolicy
from slipway.serving.rollout.core.types import Outcome, Phase, State, Verdict

_NOUNS = {
    "errors": "failed requests",
    "latency": "slow requests",
    "fallbacks": "fallback answers",
    "empty": "empty answers",
    "clicks": "clicked requests",
    "counters": "events",
    "scores": "scores",
    "rank_correlation": "rank correlation of answers",
    "score_difference": "difference of scores",
}


def verdict_sentence(verdict: Verdict, guardrail: Guardrail, problem: str | None) -> str:
    """Returns what one guardrail says and why.

    Args:
        verdict: The verdict, in the user's direction.
        guardrail: Its guardrail.
        problem: What is wrong with the readings, or None.
    """
    noun = _noun(guardrail)
    if verdict.samples == 0 and verdict.outcome is not Outcome.ERROR:
        return f"No comparison of {noun} with stable yet"
    if guardrail.is_similarity and verdict.outcome is not Outcome.ERROR:
        return _similarity_sentence(verdict, guardrail, noun)
    rates = _rates(verdict, guardrail, noun)
    if verdict.outcome is Outcome.ERROR:
        return f"No verdict on {noun}: {problem}"
    if verdict.measure == "hard_limit":
        side = "below" if guardrail.higher_is_better else "above"
        return f"{rates}; {side} the hard limit of {_percent(verdict.margin)} by the evidence{_lately(verdict, side)}"
    return f"{rates}; {_interval(verdict)}; {_conclusion(verdict, guardrail)}"


def _similarity_sentence(verdict: Verdict, guardrail: Guardrail, noun: str) -> str:
    asked = f"at {'least' if guardrail.higher_is_better else 'most'} {_number(verdict.margin)}"
    found = f"{noun}:{_span(verdict.value, verdict.lower, verdict.upper, 1.0)} in {verdict.samples:,} pairs of answers"
    match verdict.outcome:
        case Outcome.FAIL:
            return f"{found}; not {asked}, by the evidence"
        case Outcome.PASS:
            return f"{found}; {asked}, as asked for"
        case _:
            missing = verdict.minimum_samples - verdict.step_samples
            if missing > 0:
                return f"{found}; {missing:,} more pairs needed at this step"
            return f"{found}; neither proven nor disproven to be {asked}"


def _noun(guardrail: Guardrail) -> str:
    if guardrail.kind == "latency":
        return f"requests slower than {describe_seconds(guardrail.objective or 0)}"
    if guardrail.is_mean:
        name = {"mean": guardrail.value, "ndcg": f"NDCG@{guardrail.at}", "auc": "AUC"}[guardrail.kind]
        return f"mean {name} of a {guardrail.unit}"
    if guardrail.kind == "agreement":
        return "agreement of whole answers" if guardrail.at is None else f"agreement of the first {guardrail.at} items"
    return "users who clicked" if guardrail.unit == "user" else _NOUNS[guardrail.kind]


def _rates(verdict: Verdict, guardrail: Guardrail, noun: str) -> str:
    if guardrail.kind == "scores":
        return f"{noun}: {verdict.samples:,} of the candidate, {verdict.stable_samples:,} of stable"
    show = _number if guardrail.is_mean else _percent
    rates = f"{noun}: {show(verdict.candidate_rate)} of {verdict.samples:,}"
    if verdict.stable_samples:
        rates += f", stable {show(verdict.stable_rate)} of {verdict.stable_samples:,}"
    return rates


def split_sentence(verdict: Verdict, weight: int, assignment: Literal["request", "user"]) -> str:
    """Returns what the check of the traffic split says; it counts requests, or new users where users stay."""
    counted = "requests" if assignment == "request" else "new users"
    share = f"the candidate got {_percent(verdict.candidate_rate)} of {verdict.samples + verdict.stable_samples:,}"
    if verdict.outcome is Outcome.ERROR:
        return (
            f"Traffic is not split as set: {share} {counted} at weight {weight} %; "
            f"no comparison counts until this is mended"
        )
    return f"Traffic is split as set: {share} {counted} at weight {weight} %"


def explain(state: State, policy: RolloutPolicy, now: float) -> str:
    """Returns where a rollout stands and why, in a few lines, most important first.

    Args:
        state: The rollout.
        policy: Its policy.
        now: Seconds, of the clock that `decide` is given.
    """
    arm = state.candidate.arm
    weight = state.weights.get(arm, 0)
    lines = [f"{arm} is {_phase_words(state, policy)} at {weight} % of traffic. {state.reason}".rstrip()]
    if state.alarm:
        lines.append(f"ALARM: {state.alarm}")
    for verdict in state.verdicts:
        met = "" if verdict.outcome is Outcome.FAIL else "met, " if verdict.met else "not met, "
        dry = " (dry run: decides nothing)" if verdict.dry_run else ""
        lines.append(
            f"  {verdict.guardrail} {verdict.outcome.value} [{met}requires {verdict.requirement}]: "
            f"{verdict.explanation}{dry}"
        )
    if state.phase is Phase.PROGRESSING and state.step_since is not None:
        step = policy.steps[min(state.step, len(policy.steps) - 1)]
        spent = describe_seconds(max(0.0, now - state.step_since))
        limit = "" if step.deadline is None else f", deadline {describe_seconds(step.deadline)}"
        lines.append(f"  At this step for {spent}; shortest time {describe_seconds(step.minimum_dwell)}{limit}")
    return "\n".join(lines)


def _phase_words(state: State, policy: RolloutPolicy) -> str:
    if state.phase in (Phase.PROGRESSING, Phase.AWAITING_GATE, Phase.PAUSED):
        return f"{state.phase.value} (step {state.step + 1} of {len(policy.steps)})"
    return state.phase.value


def _conclusion(verdict: Verdict, guardrail: Guardrail) -> str:
    margin = _margin_words(verdict)
    match verdict.outcome:
        case Outcome.FAIL:
            return f"worse than the tolerated {margin}, by the evidence"
        case Outcome.PASS if verdict.requirement == "better":
            better = _better_words(guardrail)
            return (
                f"better by more than {better}" if verdict.improved else f"inside {margin}, not yet better by {better}"
            )
        case Outcome.PASS:
            return f"inside the tolerated {margin}"
        case _:
            missing = verdict.minimum_samples - verdict.step_samples
            if missing > 0:
                return f"{missing:,} more samples needed at this step"
            asked = "enough for this step" if verdict.met else "more evidence needed"
            side = "upper" if not guardrail.higher_is_better else "lower"
            return f"no evidence of harm, {side} bound not yet inside {margin}: {asked}"


def _lately(verdict: Verdict, side: str) -> str:
    """Says so where the rate of the whole time is still inside the limit, and only the latest windows break it."""
    if verdict.candidate_rate is None or verdict.margin is None:
        return ""
    broken = verdict.candidate_rate < verdict.margin if side == "below" else verdict.candidate_rate > verdict.margin
    return "" if broken else " of the latest windows"


def _margin_words(verdict: Verdict) -> str:
    if verdict.margin is None:
        return "margin"
    match verdict.measure:
        case "odds_ratio":
            return f"odds ratio {verdict.margin:.3g}"
        case "mean_difference":
            return f"difference of {verdict.margin:+.3g}"
        case "stability_index":
            return f"stability index of {verdict.margin:.3g}"
        case _:
            return f"difference of {100 * verdict.margin:+.2g} points"


def _better_words(guardrail: Guardrail) -> str:
    if guardrail.is_mean:
        return f"a difference of {guardrail.minimum_gain:.3g}"
    return f"an odds ratio of {guardrail.minimum_lift:.3g}"


def _interval(verdict: Verdict) -> str:
    names = {"odds_ratio": "odds ratio", "mean_difference": "difference", "stability_index": "stability index"}
    name = names.get(verdict.measure, "difference")
    scale, unit = (1.0, "") if verdict.measure in names else (100.0, " points")
    if verdict.lower is None and verdict.upper is None:
        return f"{name} not known yet"
    interval = f"{name}{_span(verdict.value, verdict.lower, verdict.upper, scale)}{unit}"
    if verdict.requirement == "better" and verdict.lift is not None:
        lift = _span(verdict.lift, verdict.lift_lower, verdict.lift_upper, 100.0)
        interval += f", lift{lift} % at stable's rate"
    return interval


def _span(value: float | None, lower: float | None, upper: float | None, scale: float) -> str:
    low, high = ("?" if bound is None else f"{scale * bound:.3g}" for bound in (lower, upper))
    return f"{'' if value is None else f' {scale * value:.3g}'} ({low} to {high})"


def _number(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _percent(rate: float | None) -> str:
    if rate is None or not math.isfinite(rate):
        return "none"
    return f"{100 * rate:.3g} %"
