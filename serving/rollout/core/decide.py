"""The rollout's one decision: `decide(state, observations, policy, now) -> (state, actions)`.

Pure and total: no clock, no input or output, no exception on any observation. What it asks for is asked again at every
look until an observation shows that it happened. The order of its questions is the order of urgency: what a person
wants, hard faults, evidence of harm, lack of data, and only then whether the next step is due.
"""

from __future__ import annotations

import math
from dataclasses import replace

from slipway.contracts.durations import describe_seconds
from slipway.contracts.rollout import ASSIGNMENT, RolloutPolicy
from slipway.serving.rollout.core import health
from slipway.serving.rollout.core.actions import actions_for
from slipway.serving.rollout.core.commands import follow_desired, take_commands
from slipway.serving.rollout.core.ingest import ingest
from slipway.serving.rollout.core.judge import judge
from slipway.serving.rollout.core.transitions import all_to, begin_rollback, new_state, to_phase, to_step
from slipway.serving.rollout.core.types import (
    MEASURING,
    TERMINAL,
    Action,
    Clock,
    Observations,
    Outcome,
    Phase,
    RecordEvent,
    RecordVerdicts,
    State,
    Target,
    Verdict,
)

__all__ = ["decide", "new_state"]

_BEFORE_TRAFFIC = frozenset({Phase.PENDING, Phase.STARTING, Phase.SMOKE_TEST})


def decide(
    state: State, observations: Observations, policy: RolloutPolicy, now: float
) -> tuple[State, tuple[Action, ...]]:
    """Returns the next state and what to do about it.

    Args:
        state: What the last call returned, or `new_state`.
        observations: What was seen since.
        policy: The policy; it may have changed since the last call.
        now: Seconds; may jump.

    Returns:
        The new state, which must be stored before the actions are carried out, and the actions in order. All of them
        may be carried out any number of times.
    """
    before = state
    state, now = _settle_time(state, now)
    state, lines = take_commands(state, observations, policy, now)
    state = follow_desired(state, observations, policy, now)
    if state.phase not in TERMINAL:
        state = _follow_policy(state, policy, now)
        state = _measure(replace(state, alarm=""), observations, policy, now)
        state = _step(state, observations, policy, now)
    events = [RecordEvent(now, "command", line) for line in lines]
    if (state.phase, state.step) != (before.phase, before.step):
        events.append(RecordEvent(now, "phase", f"{_place(before)} -> {_place(state)}: {state.reason}"))
    if state.alarm and state.alarm != before.alarm:
        events.append(RecordEvent(now, "alarm", state.alarm))
    if state.refused and state.refused != before.refused:
        events.append(RecordEvent(now, "refused", f"{state.refused} was refused: another rollout is under way."))
    verdicts: list[Action] = []
    if state.verdicts and _ends(state) != _ends(before):
        verdicts = [RecordVerdicts(now, state.step, dict(state.weights), state.verdicts)]
    return state, (*events, *verdicts, *actions_for(state, observations))


def _place(state: State) -> str:
    return f"{state.phase} {state.step + 1}" if state.phase is Phase.PROGRESSING else str(state.phase)


def _ends(state: State) -> dict[str, float]:
    return {name: clock.last_end for name, clock in state.clocks.items()}


def _settle_time(state: State, now: float) -> tuple[State, float]:
    """Returns state and time such that no timer lies in the future: when the clock was set back, timers start anew."""
    if not math.isfinite(now):
        now = state.last_now if math.isfinite(state.last_now) else state.started
    if now >= state.last_now:
        return replace(state, last_now=now), now
    clocks = {
        name: clock if clock.last_data is None else replace(clock, last_data=min(clock.last_data, now))
        for name, clock in state.clocks.items()
    }
    state = replace(
        state,
        last_now=now,
        started=min(state.started, now),
        phase_since=min(state.phase_since, now),
        step_since=None if state.step_since is None else min(state.step_since, now),
        traffic_since=None if state.traffic_since is None else min(state.traffic_since, now),
        mismatch_since=None if state.mismatch_since is None else min(state.mismatch_since, now),
        clocks=clocks,
    )
    return state, now


def _follow_policy(state: State, policy: RolloutPolicy, now: float) -> State:
    """Returns the state at the step that its weight has in the policy, which may have been edited; never further up."""
    if state.phase not in (Phase.PROGRESSING, Phase.PAUSED, Phase.AWAITING_GATE) or state.resume_to in _BEFORE_TRAFFIC:
        return state
    weight = state.weights.get(state.candidate.arm, 0)
    if state.step < len(policy.steps) and policy.steps[state.step].weight == weight:
        return state
    reached = [index for index, step in enumerate(policy.steps) if step.weight <= weight]
    moved = to_step(state, policy, max(reached, default=0), "The policy was changed.", now)
    return replace(moved, phase=Phase.PAUSED, phase_since=state.phase_since) if state.phase is Phase.PAUSED else moved


def _measure(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    if state.phase in MEASURING and state.traffic_since is not None:
        state = ingest(state, observations, policy, now)
        state = replace(state, verdicts=judge(state, observations, policy, now))
    if state.stable is not None:
        state = replace(state, stable_was_healthy=health.stable_is_healthy(state, observations, policy))
    if health.weights_in_force(state.weights, observations):
        state = replace(state, weights_confirmed=state.weights)
    found = health.seen(observations, state.candidate.arm)
    if found is not None and found.total > 0:
        base = found.restarts if state.restarts_at_start is None else min(state.restarts_at_start, found.restarts)
        ready = state.ready_once or health.fully_ready(observations, state.candidate)
        state = replace(state, restarts_at_start=base, ready_once=ready)
    return state


def _step(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    if state.phase in _BEFORE_TRAFFIC or state.phase in MEASURING:
        fault = health.hard_fault(state, observations, policy)
        if fault is not None:
            state = begin_rollback(state, f"Hard fault: {fault}.", now)
    if state.phase in MEASURING:
        failed = [verdict for verdict in deciding(state) if verdict.outcome is Outcome.FAIL]
        if failed:
            reason = "; ".join(f"{verdict.guardrail}: {verdict.explanation}" for verdict in failed)
            state = begin_rollback(state, f"Evidence of harm. {reason}.", now)
    match state.phase:
        case Phase.PENDING | Phase.STARTING | Phase.SMOKE_TEST:
            state = _start(state, observations, policy, now)
        case Phase.PROGRESSING:
            state = _progress(state, observations, policy, now)
        case Phase.PROMOTING:
            state = _promote(state, observations, now)
        case _:
            pass
    if state.phase in (Phase.ROLLING_BACK, Phase.HOLDING):
        state = _go_back(state, observations, policy, now)
    return state


def deciding(state: State) -> list[Verdict]:
    """Returns the verdicts that decide: all but those of dry runs."""
    return [verdict for verdict in state.verdicts if not verdict.dry_run]


def _start(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Brings the candidate up and asks it directly, before it gets any traffic."""
    arm = state.candidate.arm
    if now - state.started > policy.readiness_timeout:
        limit = describe_seconds(policy.readiness_timeout)
        return begin_rollback(state, f"{arm} was not ready and answering within {limit}.", now)
    if not health.fully_ready(observations, state.candidate):
        found = health.seen(observations, arm)
        if found is None or found.total == 0:
            return to_phase(state, Phase.PENDING, f"Waiting for {arm} to start.", now)
        return to_phase(state, Phase.STARTING, f"{found.ready} of {found.total} replicas of {arm} are ready.", now)
    result = observations.smoke_test
    if state.phase is not Phase.SMOKE_TEST or result is None or result.arm != arm:
        return to_phase(state, Phase.SMOKE_TEST, f"{arm} is ready; asking it before it gets traffic.", now)
    if not result.passed:
        return begin_rollback(state, f"Smoke test failed: {result.message}.", now)
    if state.stable is None:
        return to_step(state, policy, len(policy.steps) - 1, "First version: all traffic after its smoke test.", now)
    return to_step(state, policy, 0, "Smoke test passed.", now)


def _progress(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    step = policy.steps[state.step]
    if now - state.started > policy.deadline:
        limit = describe_seconds(policy.deadline)
        return begin_rollback(state, f"Not promoted within the rollout's deadline of {limit}.", now)
    if not health.weights_in_force(state.weights, observations):
        return replace(state, reason=f"Waiting until the gateway gives {state.candidate.arm} {step.weight} %.")
    if state.step_since is None:
        traffic_since = now if state.traffic_since is None and step.weight > 0 else state.traffic_since
        return replace(
            state, step_since=now, traffic_since=traffic_since, reason=f"At {step.weight} %; collecting evidence."
        )
    if state.stable is None:
        return to_phase(state, Phase.PROMOTING, "First version: smoke test passed and traffic is on it.", now)
    if state.forced or state.skip:
        return _advance(state, policy, "Without proof, as a person asked.", now)
    return _weigh(state, policy, state.step_since, state.stable, now)


def _weigh(state: State, policy: RolloutPolicy, step_since: float, stable: Target, now: float) -> State:
    """Decides whether the next step is due: stable healthy, data there, traffic split as set, every guardrail met."""
    step = policy.steps[state.step]
    if step.weight < 100 and not state.stable_was_healthy:
        alarm = f"{stable.arm}, the stable version, is not healthy; the rollout holds."
        return replace(state, reason=alarm, alarm=alarm)
    missing = _without_data(state, policy, now)
    if missing is not None:
        if policy.no_data.then == "rollback":
            return begin_rollback(state, missing, now)
        return replace(state, reason=missing, alarm=missing)
    split = next((verdict for verdict in state.verdicts if verdict.guardrail == ASSIGNMENT and not verdict.met), None)
    since = now if state.mismatch_since is None else state.mismatch_since
    state = replace(state, mismatch_since=None if split is None else since)
    if split is not None:
        state = replace(state, reason=split.explanation, alarm=split.explanation)
        if now - since > policy.no_data.hold_for and policy.no_data.then == "rollback":
            return begin_rollback(state, split.explanation, now)
        return state
    dwell = now - step_since
    open_verdicts = [verdict for verdict in deciding(state) if not verdict.met]
    complete = step.weight == 0 or _all_judged(state, policy)
    if complete and not open_verdicts and dwell >= step.minimum_dwell:
        return _gate(state, policy, "Every guardrail fulfils what this step requires.", now)
    if step.deadline is not None and dwell > step.deadline:
        return _inconclusive(state, policy, open_verdicts, now)
    if complete and not open_verdicts:
        return replace(
            state, reason=f"Every guardrail is fulfilled; {describe_seconds(step.minimum_dwell - dwell)} left."
        )
    waiting = ", ".join(f"{verdict.guardrail} ({verdict.requirement})" for verdict in open_verdicts)
    return replace(state, reason=f"At {step.weight} %; waiting for {waiting or 'the first readings'}.")


def _all_judged(state: State, policy: RolloutPolicy) -> bool:
    judged = {verdict.guardrail for verdict in state.verdicts}
    return all(guardrail.name in judged for guardrail in policy.guardrails)


def _without_data(state: State, policy: RolloutPolicy, now: float) -> str | None:
    """Returns which guardrail has had no usable reading for longer than the policy allows, or None."""
    if policy.steps[state.step].weight == 0 or state.step_since is None:
        return None
    for guardrail in policy.guardrails:
        clock = state.clocks.get(guardrail.name, Clock())
        since = max(state.step_since, clock.last_data if clock.last_data is not None else state.step_since)
        if not guardrail.dry_run and now - since > policy.no_data.hold_for:
            why = f" ({clock.error})" if clock.error else ""
            return f"No usable reading of {guardrail.name} for {describe_seconds(now - since)}{why}."
    return None


def _inconclusive(state: State, policy: RolloutPolicy, open_verdicts: list[Verdict], now: float) -> State:
    """The step's deadline has passed without its requirements fulfilled."""
    names = ", ".join(f"{verdict.guardrail} ({verdict.requirement})" for verdict in open_verdicts) or "the dwell time"
    reason = f"Step {state.step + 1} reached its deadline without {names}."
    harmless = all(
        verdict.enough and verdict.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE) for verdict in deciding(state)
    )
    if policy.inconclusive == "rollback":
        return begin_rollback(state, reason, now)
    if policy.inconclusive == "proceed" and harmless and _all_judged(state, policy):
        return _gate(state, policy, f"{reason} No evidence of harm: proceeding, as the policy says.", now)
    return replace(state, reason=f"{reason} Holding.", alarm=f"{reason} Holding.")


def _gate(state: State, policy: RolloutPolicy, reason: str, now: float) -> State:
    if policy.steps[state.step].gate and not state.approved:
        return to_phase(state, Phase.AWAITING_GATE, f"{reason} Waiting for approval.", now)
    return _advance(state, policy, reason, now)


def _advance(state: State, policy: RolloutPolicy, reason: str, now: float) -> State:
    if state.step + 1 < len(policy.steps):
        return to_step(state, policy, state.step + 1, reason, now)
    return to_phase(replace(state, alias_moved=True), Phase.PROMOTING, reason, now)


def _promote(state: State, observations: Observations, now: float) -> State:
    """Ends when the alias names the candidate and stable has gone; until then the way back stays open."""
    state = replace(state, alias_moved=True)
    if observations.champion != state.candidate.version:
        return replace(state, reason="Moving the alias champion.")
    if not health.weights_in_force(state.weights, observations):
        return replace(state, reason="Waiting until the gateway gives the candidate everything.")
    if state.stable is None or health.gone(observations, state.stable.arm):
        return to_phase(state, Phase.PROMOTED, f"{state.candidate.arm} serves all traffic.", now)
    return replace(state, reason=f"Stopping {state.stable.arm}.")


def _go_back(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """One look at the way back: whether stable can take the traffic, and whether all of it is done."""
    candidate, stable = state.candidate, state.stable
    loaded = health.carries_traffic(state, observations)
    if stable is None:
        if loaded and not state.aborted:
            return _hold(state, observations, "there is no other version to go back to", now)
        state = replace(state, weights={candidate.arm: 0} if state.weights else {})
        # With no arm left at all, an empty plane is all that can be seen; the stop was asked for at an earlier look.
        emptied = not observations.arms and now > state.phase_since
        if emptied or health.gone(observations, candidate.arm):
            return to_phase(state, Phase.FAILED, state.reason, now)
        return state
    stays = loaded or state.phase is Phase.HOLDING
    if stays and not health.stable_is_healthy(state, observations, policy):
        return _hold(state, observations, f"{stable.arm}, the stable version, is not healthy either", now)
    if state.phase is Phase.HOLDING:
        state = to_phase(state, Phase.ROLLING_BACK, f"{stable.arm} is healthy again. {state.reason}", now)
    state = replace(state, weights=all_to(stable, state.candidates))
    alias_is_back = not state.alias_moved or observations.champion == stable.version
    everything_gone = all(health.gone(observations, target.arm) for target in state.candidates)
    if health.weights_in_force(state.weights, observations) and everything_gone and alias_is_back:
        return to_phase(state, Phase.ROLLED_BACK, state.reason, now)
    return state


def _hold(state: State, observations: Observations, why: str, now: float) -> State:
    """Both are bad: the traffic stays where it is, unless the policy names a version that is known to be good."""
    alarm = f"{state.candidate.arm} is bad and {why}; holding the traffic where it is."
    weights = state.weights if state.phase is Phase.HOLDING else {}
    # What is in force, which may be neither what was asked for last nor what was seen last; not known, it is let be.
    weights = weights or health.weights_seen(state, observations)
    good = state.known_good
    judged = {target.arm for target in (*state.candidates, state.stable) if target is not None}
    if good is not None and good.arm not in judged and health.arm_is_healthy(observations, good.arm):
        weights = {**dict.fromkeys(judged, 0), good.arm: 100}
        alarm = f"{state.candidate.arm} is bad and {why}; {good.arm}, known to be good, takes the traffic."
    state = replace(state, weights=weights, alarm=alarm)
    return to_phase(state, Phase.HOLDING, state.reason, now)
