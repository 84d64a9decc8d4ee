"""The rollout's one decision: `decide(state, observations, policy, now) -> (state, actions)`.

Pure and total: no clock, no input or output, no exception on any observation. What it asks for is asked again at every
look until an observation shows that it happened. The order of its questions is the order of urgency: what a person
wants, hard faults, evidence of harm, lack of data, and only then whether the next step is due.
"""

from __future__ import annotations

import math
from dataclasses import replace

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core import finishing, health, progress, starting
from slipway.serving.rollout.core.actions import actions_for
from slipway.serving.rollout.core.commands import follow_desired, take_commands
from slipway.serving.rollout.core.ingest import ingest
from slipway.serving.rollout.core.judge import judge
from slipway.serving.rollout.core.observations import Observations
from slipway.serving.rollout.core.transitions import drop, new_state, to_step
from slipway.serving.rollout.core.types import (
    BEFORE_TRAFFIC,
    MEASURING,
    TERMINAL,
    Action,
    Outcome,
    Phase,
    RecordEvent,
    RecordVerdicts,
    State,
)

__all__ = ["decide", "new_state"]


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
        state = _freeze(state, policy, now)
        state = _measure(replace(state, alarm=""), observations, policy, now)
        state = _step(state, observations, policy, now)
    events = [RecordEvent(now, "command", line) for line in lines]
    if (state.phase, state.step) != (before.phase, before.step):
        events.append(RecordEvent(now, "phase", f"{_place(before)} -> {_place(state)}: {state.reason}"))
    for arm, why in state.dropped.items():
        if arm not in before.dropped:
            events.append(RecordEvent(now, "dropped", f"{arm}: {why}"))
    if state.alarm and state.alarm != before.alarm:
        events.append(RecordEvent(now, "alarm", state.alarm))
    if state.refused and state.refused != before.refused:
        events.append(RecordEvent(now, "refused", f"{state.refused} was refused: another rollout is under way."))
    verdicts: list[Action] = []
    if state.verdicts and _ends(state) != _ends(before):
        verdicts = [RecordVerdicts(now, state.step, dict(state.weights), state.verdicts)]
    return state, (*events, *verdicts, *actions_for(state, observations, policy))


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

    def settled(moment: float | None) -> float | None:
        return None if moment is None else min(moment, now)

    clocks = {name: replace(clock, last_data=settled(clock.last_data)) for name, clock in state.clocks.items()}
    state = replace(
        state,
        last_now=now,
        started=min(state.started, now),
        phase_since=min(state.phase_since, now),
        step_since=settled(state.step_since),
        traffic_since=settled(state.traffic_since),
        mismatch_since=settled(state.mismatch_since),
        frozen_since=settled(state.frozen_since),
        clocks=clocks,
    )
    return state, now


def _follow_policy(state: State, policy: RolloutPolicy, now: float) -> State:
    """Returns the state at the step that its weight has in the policy, which may have been edited; never further up."""
    if state.phase not in (Phase.PROGRESSING, Phase.PAUSED, Phase.AWAITING_GATE) or state.resume_to in BEFORE_TRAFFIC:
        return state
    weight = state.weights.get(state.candidate.arm, 0)
    mirror = state.mirrors.get(state.candidate.arm, 0)
    if state.step < len(policy.steps):
        here = policy.steps[state.step]
        if (here.weight, here.mirror) == (weight, mirror):
            return state
    reached = [index for index, step in enumerate(policy.steps) if step.weight <= weight]
    moved = to_step(state, policy, max(reached, default=0), "The policy was changed.", now)
    return replace(moved, phase=Phase.PAUSED, phase_since=state.phase_since) if state.phase is Phase.PAUSED else moved


def _freeze(state: State, policy: RolloutPolicy, now: float) -> State:
    """Notes when a freeze began; when it has ended, every deadline moves on by as long as it lasted."""
    if policy.frozen(now) is not None:
        return state if state.frozen_since is not None else replace(state, frozen_since=now)
    if state.frozen_since is None:
        return state
    waited = now - state.frozen_since
    step_since = None if state.step_since is None else min(now, state.step_since + waited)
    started = min(now, state.started + waited)
    return replace(state, frozen_since=None, started=started, step_since=step_since)


def _measure(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    if state.phase in MEASURING and state.traffic_since is not None:
        state = ingest(state, observations, policy, now)
        state = replace(state, verdicts=judge(state, observations, policy, now))
    if state.stable is not None:
        state = replace(state, stable_was_healthy=health.stable_is_healthy(state, observations, policy))
    if health.weights_in_force(state.weights, observations):
        state = replace(state, weights_confirmed=state.weights)
    for target in state.active:
        found = health.seen(observations, target.arm)
        if found is None or found.total == 0:
            continue
        least = min(found.restarts, state.restarts_at_start.get(target.arm, found.restarts))
        state = replace(state, restarts_at_start={**state.restarts_at_start, target.arm: least})
        if target.arm not in state.were_ready and health.fully_ready(observations, target):
            state = replace(state, were_ready=(*state.were_ready, target.arm))
    return state


def _step(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    if state.phase in BEFORE_TRAFFIC or state.phase in MEASURING:
        state = drop(state, health.hard_faults(state, observations, policy), now, remember=True)
    if state.phase in MEASURING:
        state = drop(state, _harmful(state), now, remember=True)
    match state.phase:
        case Phase.PENDING | Phase.STARTING | Phase.SMOKE_TEST:
            state = starting.start(state, observations, policy, now)
        case Phase.PROGRESSING:
            state = progress.progress(state, observations, policy, now)
        case Phase.PROMOTING:
            state = finishing.promote(state, observations, policy, now)
        case Phase.WATCHING:
            state = finishing.watch(state, observations, policy, now)
        case Phase.COMPLETING:
            state = finishing.complete(state, observations, now)
        case _:
            pass
    if state.phase in (Phase.ROLLING_BACK, Phase.HOLDING):
        state = finishing.go_back(state, observations, policy, now)
    return state


def _harmful(state: State) -> dict[str, str]:
    """Returns the evidence of harm by arm."""
    found: dict[str, list[str]] = {}
    for verdict in progress.deciding(state):
        if verdict.outcome is Outcome.FAIL:
            found.setdefault(verdict.arm, []).append(f"{verdict.guardrail}: {verdict.explanation}")
    return {arm: f"Evidence of harm. {'; '.join(sentences)}." for arm, sentences in found.items()}
