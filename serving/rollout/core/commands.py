"""What people ask for, and which version is wanted: taken in once, before anything is judged."""

from __future__ import annotations

from dataclasses import replace

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.observations import Command, Observations, Target
from slipway.serving.rollout.core.transitions import begin, begin_rollback, drop, to_phase, to_step
from slipway.serving.rollout.core.types import BEFORE_TRAFFIC, MEASURING, TERMINAL, Phase, State

_GOING_BACK = frozenset({Phase.ROLLING_BACK, Phase.HOLDING})
_REMEMBERED = 200


def take_commands(
    state: State, observations: Observations, policy: RolloutPolicy, now: float
) -> tuple[State, list[str]]:
    """Returns the state after the commands that were not seen before, and a line for each."""
    lines = []
    for command in observations.commands:
        if command.id in state.handled:
            continue
        state = replace(state, handled=(*state.handled, command.id)[-_REMEMBERED:])
        after = _take(state, command, policy, now)
        by = f" by {command.by}" if command.by else ""
        lines.append(
            f"{command.kind}{by}" if after is not None else f"{command.kind}{by} has no effect in phase {state.phase}"
        )
        state = state if after is None else after
    return state, lines


def _take(state: State, command: Command, policy: RolloutPolicy, now: float) -> State | None:
    """Returns the state after a command, or None where it means nothing in this phase."""
    by = f" by {command.by}" if command.by else ""
    match command.kind:
        case "pause" if state.phase in {*BEFORE_TRAFFIC, Phase.PROGRESSING, Phase.AWAITING_GATE}:
            return to_phase(replace(state, resume_to=state.phase), Phase.PAUSED, f"Paused{by}.", now)
        case "resume" if state.phase is Phase.PAUSED:
            return _resume(state, now)
        case "resume" | "approve" if state.phase is Phase.AWAITING_GATE:
            state = replace(_shift(state, now), approved=True)
            return to_phase(state, Phase.PROGRESSING, f"Approved{by}.", now)
        case "abort" if state.phase not in TERMINAL and state.phase not in _GOING_BACK:
            return begin_rollback(state, f"Aborted{by}.", now, aborted=True)
        case "abort" if state.phase is Phase.HOLDING and state.stable is None:
            return to_phase(replace(state, aborted=True), Phase.ROLLING_BACK, f"Aborted{by}.", now)
        case "retry" if state.phase in (Phase.ROLLED_BACK, Phase.FAILED):
            own = {target.identity for target in state.candidates}
            others = tuple(identity for identity in state.went_back if identity not in own)
            return begin(state.candidates, state.stable, state.known_good, now, others, state.handled)
        case "promote" | "skip" if state.phase is Phase.WATCHING:
            return replace(state, skip=True, reason=f"The watch was ended{by}.")
        case "promote" if _has_traffic_phase(state):
            state = _only_the_first(state, now)
            last = len(policy.steps) - 1
            state = replace(to_step(state, policy, last, f"Promoted{by}, without proof.", now), forced=True)
            return replace(state, resume_to=None)
        case "skip" if state.phase in (Phase.PROGRESSING, Phase.AWAITING_GATE):
            return replace(to_phase(state, Phase.PROGRESSING, f"Step skipped{by}.", now), skip=True, approved=True)
    return None


def _only_the_first(state: State, now: float) -> State:
    others = {target.arm: f"{state.candidate.arm} was promoted." for target in state.active[1:]}
    return drop(state, others, now, remember=False)


def _has_traffic_phase(state: State) -> bool:
    if state.phase is Phase.PAUSED:
        return state.resume_to in MEASURING
    return state.phase in (Phase.PROGRESSING, Phase.AWAITING_GATE)


def _resume(state: State, now: float) -> State:
    to = state.resume_to or Phase.PROGRESSING
    # The check of the traffic split starts anew: a person may have mended what was wrong.
    return replace(_shift(state, now), phase=to, resume_to=None, phase_since=now, reason="Resumed.", splits={})


def _shift(state: State, now: float) -> State:
    """Returns the state with its timers moved on by the time that a person kept it waiting."""
    waited = max(0.0, now - state.phase_since)
    step_since = None if state.step_since is None else min(now, state.step_since + waited)
    return replace(state, started=min(now, state.started + waited), step_since=step_since)


def follow_desired(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Returns the state after looking at which version is wanted now."""
    desired = observations.desired
    if state.phase in TERMINAL:
        wanted = desired or state.queued
        return state if wanted is None else _begin_next(state, wanted, now)
    if desired is None:
        return state
    if any(_same(desired, target) for target in state.active):
        return state if state.queued is None else replace(state, queued=None)
    if state.stable is not None and _same(desired, state.stable):
        if state.phase in _GOING_BACK:
            return replace(state, queued=None)
        return begin_rollback(state, "The stable version is wanted again.", now, remember=False)
    match policy.on_new_version:
        case "refuse":
            return replace(state, refused=desired.arm)
        case "queue":
            return replace(state, queued=desired)
        case _:
            state = replace(state, queued=desired)
            if state.phase in {*_GOING_BACK, Phase.PROMOTING, Phase.WATCHING, Phase.COMPLETING}:
                return state
            return begin_rollback(state, f"Replaced by {desired.arm}.", now, remember=False)


def _begin_next(state: State, wanted: Target, now: float) -> State:
    serving = state.candidate if state.phase is Phase.PROMOTED else state.stable
    if serving is not None and _same(wanted, serving):
        return replace(state, queued=None) if state.queued is not None else state
    if wanted.identity in state.went_back:
        return state
    return begin((wanted,), serving, state.known_good, now, state.went_back, state.handled)


def _same(one: Target, other: Target) -> bool:
    digests_agree = not one.digest or not other.digest or one.digest == other.digest
    return one.arm == other.arm and digests_agree
