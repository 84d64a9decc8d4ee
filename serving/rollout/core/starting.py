"""Before any traffic: every candidate is brought up and asked directly."""

from __future__ import annotations

from dataclasses import replace

from slipway.contracts.durations import describe_seconds
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core import health
from slipway.serving.rollout.core.observations import Observations, Target
from slipway.serving.rollout.core.transitions import drop, to_phase, to_step
from slipway.serving.rollout.core.types import Phase, State


def start(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Brings the candidates up and asks them one after the other, before they get any traffic."""
    if now - state.started > policy.readiness_timeout and state.frozen_since is None:
        limit = describe_seconds(policy.readiness_timeout)
        late = [target for target in state.active if target.arm not in state.smoke_passed]
        reasons = {target.arm: f"{target.arm} was not ready and answering within {limit}." for target in late}
        state = drop(state, reasons, now, remember=True)
        if state.phase is Phase.ROLLING_BACK:
            return state
    waiting = [target for target in state.active if not health.fully_ready(observations, target)]
    if waiting:
        return _wait_for(state, waiting[0], observations, now)
    asked = waiting_for_smoke_test(state)
    if asked is None:
        return _to_traffic(state, policy, now)
    result = observations.smoke_test
    if state.phase is not Phase.SMOKE_TEST or result is None or result.arm != asked.arm:
        return to_phase(state, Phase.SMOKE_TEST, f"{asked.arm} is ready; asking it before it gets traffic.", now)
    if not result.passed:
        return drop(state, {asked.arm: f"Smoke test failed: {result.message}."}, now, remember=True)
    state = replace(state, smoke_passed=(*state.smoke_passed, asked.arm))
    return _to_traffic(state, policy, now) if waiting_for_smoke_test(state) is None else state


def waiting_for_smoke_test(state: State) -> Target | None:
    """Returns the candidate that is to be asked next, or None when all were."""
    return next((target for target in state.active if target.arm not in state.smoke_passed), None)


def _wait_for(state: State, target: Target, observations: Observations, now: float) -> State:
    found = health.seen(observations, target.arm)
    # What was asked before its process was replaced says nothing about the new one.
    passed = tuple(arm for arm in state.smoke_passed if arm != target.arm)
    state = replace(state, smoke_passed=passed)
    if found is None or found.total == 0:
        return to_phase(state, Phase.PENDING, f"Waiting for {target.arm} to start.", now)
    return to_phase(state, Phase.STARTING, f"{found.ready} of {found.total} replicas of {target.arm} are ready.", now)


def _to_traffic(state: State, policy: RolloutPolicy, now: float) -> State:
    frozen = policy.frozen(now)
    if frozen is not None:
        return to_phase(state, Phase.SMOKE_TEST, f"Smoke test passed; {frozen}, so no traffic yet.", now)
    if state.stable is None:
        return to_step(state, policy, len(policy.steps) - 1, "First version: all traffic after its smoke test.", now)
    return to_step(state, policy, 0, "Smoke test passed.", now)
