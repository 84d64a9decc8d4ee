"""The ends of a rollout: promotion and its watch, the end of a shadow, and the way back."""

from __future__ import annotations

from dataclasses import replace

from slipway.contracts.durations import describe_seconds
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core import health
from slipway.serving.rollout.core.observations import Observations
from slipway.serving.rollout.core.transitions import all_to, to_phase
from slipway.serving.rollout.core.types import Phase, State


def promote(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Ends when the alias names the candidate and stable has gone; until then the way back stays open."""
    state = replace(state, alias_moved=True)
    if observations.champion != state.candidate.version:
        return replace(state, reason="Moving the alias champion.")
    if not health.traffic_in_force(state, observations):
        return replace(state, reason="Waiting until the gateway gives the candidate everything.")
    if state.stable is not None and policy.watch.duration > 0 and not state.watched:
        weights = all_to(state.candidate, state.candidates)
        control = policy.watch.control
        weights |= {state.candidate.arm: 100 - control, state.stable.arm: control}
        return to_phase(replace(state, weights=weights), Phase.WATCHING, _watching(state, policy, 0.0), now)
    if state.stable is None or health.gone(observations, state.stable.arm):
        return to_phase(state, Phase.PROMOTED, f"{state.candidate.arm} serves all traffic.", now)
    return replace(state, reason=f"Stopping {state.stable.arm}.")


def watch(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Keeps stable running until the time is over; evidence of harm and hard faults go back as at any step."""
    spent = now - state.phase_since
    ended = spent >= policy.watch.duration or state.skip or state.queued is not None
    if ended and state.stable is not None:
        weights = {**state.weights, state.candidate.arm: 100, state.stable.arm: 0}
        state = replace(state, watched=True, skip=False, weights=weights)
        return to_phase(state, Phase.PROMOTING, "The watch after promotion has ended.", now)
    state = replace(state, reason=_watching(state, policy, spent))
    if observations.metrics_error is not None:
        alarm = f"The watch sees nothing: {observations.metrics_error}"
        return replace(state, alarm=alarm)
    return state


def _watching(state: State, policy: RolloutPolicy, spent: float) -> str:
    left = describe_seconds(max(0.0, policy.watch.duration - spent))
    stable = "" if state.stable is None else f" {state.stable.arm} stays up to take over at once."
    return f"{state.candidate.arm} is promoted and watched for {left} more.{stable}"


def complete(state: State, observations: Observations, now: float) -> State:
    """Ends a shadow: nothing is copied any more, and the candidates are gone."""
    if not health.traffic_in_force(state, observations):
        return state
    if all(health.gone(observations, target.arm) for target in state.candidates):
        return to_phase(state, Phase.COMPLETED, state.reason, now)
    return state


def go_back(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
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
    if health.traffic_in_force(state, observations) and everything_gone and alias_is_back:
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
