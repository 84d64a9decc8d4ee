"""What a state asks of the plane, given what the plane shows: repeated until it shows that it happened."""

from __future__ import annotations

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core import health
from slipway.serving.rollout.core.observations import Observations, Target
from slipway.serving.rollout.core.starting import waiting_for_smoke_test
from slipway.serving.rollout.core.types import (
    TERMINAL,
    Action,
    Alarm,
    MoveAlias,
    Phase,
    SetWeights,
    SmokeTest,
    StartArm,
    State,
    StopArm,
)

CHAMPION = "champion"
_UP = frozenset({Phase.PENDING, Phase.STARTING, Phase.SMOKE_TEST, Phase.PAUSED})


def actions_for(state: State, observations: Observations, policy: RolloutPolicy) -> tuple[Action, ...]:
    """Returns the actions in the order in which they are to be carried out."""
    if state.phase in TERMINAL:
        return ()
    actions: list[Action] = []
    if state.phase in _UP:
        # Also where the plane shows nothing at all: before the first version, that is what it looks like.
        waiting = [target for target in state.active if not health.fully_ready(observations, target)]
        actions += [StartArm(target.arm) for target in waiting]
    if state.stable is not None and state.phase is not Phase.PROMOTING and not _is_up(observations, state.stable):
        actions.append(StartArm(state.stable.arm))
    if state.phase is Phase.HOLDING and state.known_good is not None and not _is_up(observations, state.known_good):
        actions.append(StartArm(state.known_good.arm))
    in_force = health.traffic_in_force(state, observations)
    if state.weights and not in_force:
        actions.append(SetWeights(dict(state.weights), dict(state.mirrors), policy.assignment))
    asked = waiting_for_smoke_test(state)
    if state.phase is Phase.SMOKE_TEST and asked is not None:
        actions.append(SmokeTest(asked.arm))
    actions += _alias(state, observations)
    watched = state.watched or policy.watch.duration == 0
    if state.phase is Phase.PROMOTING and in_force and state.stable is not None and watched:
        named = observations.champion == state.candidate.version
        if named and not health.gone(observations, state.stable.arm):
            actions.append(StopArm(state.stable.arm))
    if in_force or not state.weights:
        ended = state.phase in (Phase.ROLLING_BACK, Phase.COMPLETING)
        leaving = [target for target in state.candidates if ended or target.arm in state.dropped]
        actions += [StopArm(target.arm) for target in leaving if not health.gone(observations, target.arm)]
    if state.alarm:
        actions.append(Alarm(state.alarm))
    return tuple(actions)


def _is_up(observations: Observations, target: Target) -> bool:
    """Returns whether nothing is to be started: all replicas are there, or the plane does not say."""
    found = health.seen(observations, target.arm)
    return found is None or (found.total > 0 and found.ready >= found.total)


def _alias(state: State, observations: Observations) -> list[Action]:
    if state.phase is Phase.PROMOTING and observations.champion != state.candidate.version:
        return [MoveAlias(CHAMPION, state.candidate.version)]
    back = state.phase is Phase.ROLLING_BACK and state.alias_moved and state.stable is not None
    if back and state.stable is not None and observations.champion != state.stable.version:
        return [MoveAlias(CHAMPION, state.stable.version)]
    return []
