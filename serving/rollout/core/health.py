"""What the plane shows of the arms: which are healthy, which is at fault, whether the set weights are in force."""

from __future__ import annotations

import math
from collections.abc import Mapping

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.judge import arm_breaks_limit
from slipway.serving.rollout.core.observations import ArmObservation, Observations, Target
from slipway.serving.rollout.core.types import State


def seen(observations: Observations, arm: str) -> ArmObservation | None:
    """Returns the arm as observed, one without replicas where it is gone, or None where nothing is known.

    Nothing is known when the plane does not answer, or answers with numbers that cannot be.
    """
    if not observations.arms:
        return None
    found = observations.arms.get(arm)
    if found is None:
        return ArmObservation(ready=0, total=0, weight_applied=0)
    weight = found.weight_applied
    if all(map(_can_be, (found.ready, found.total, found.restarts, weight or 0, found.mirror_applied))):
        return found
    # A crash loop is a fault even where the numbers beside it cannot be.
    weight = weight if _can_be(weight or 0) else None
    return ArmObservation(0, 1, crash_looping=True, weight_applied=weight) if found.crash_looping else None


def gone(observations: Observations, arm: str) -> bool:
    """Returns whether the arm is known to have no replica left."""
    found = seen(observations, arm)
    return found is not None and found.total == 0 and found.ready == 0


def fully_ready(observations: Observations, target: Target) -> bool:
    """Returns whether every replica of the arm is ready, with the bundle that is wanted."""
    found = seen(observations, target.arm)
    return found is not None and 0 < found.total <= found.ready and not _other_bundle(found, target)


def stable_is_healthy(state: State, observations: Observations, policy: RolloutPolicy) -> bool:
    """Returns whether stable can take all traffic; what was last seen where the plane does not answer."""
    if state.stable is None:
        return False
    found = seen(observations, state.stable.arm)
    if found is None:
        return state.stable_was_healthy
    return found.ready > 0 and not found.crash_looping and not arm_breaks_limit(state, state.stable.arm, policy)


def arm_is_healthy(observations: Observations, arm: str) -> bool:
    """Returns whether the arm is known to have a ready replica and not to be crash-looping."""
    found = seen(observations, arm)
    return found is not None and found.ready > 0 and not found.crash_looping


def hard_faults(state: State, observations: Observations, policy: RolloutPolicy) -> dict[str, str]:
    """Returns why candidates must not serve at all, by arm. A hard fault is never a matter of evidence."""
    faults = {}
    for target in state.active:
        found = seen(observations, target.arm)
        fault = None if found is None else _hard_fault(state, found, target, policy)
        if fault is not None:
            faults[target.arm] = f"Hard fault: {fault}."
    return faults


def _hard_fault(state: State, found: ArmObservation, target: Target, policy: RolloutPolicy) -> str | None:
    if found.crash_looping:
        return f"{target.arm} is crash-looping ({found.restarts} restarts)"
    if target.arm in state.were_ready and found.ready == 0:
        return f"{target.arm} lost readiness: no replica is ready"
    if target.arm in state.were_ready and _other_bundle(found, target):
        return f"{target.arm} serves another bundle than the one wanted"
    extra = found.restarts - state.restarts_at_start.get(target.arm, found.restarts)
    if extra > policy.maximum_restarts:
        return f"{target.arm} restarted {extra} times, more than {policy.maximum_restarts}"
    return None


def weights_in_force(weights: Mapping[str, int], observations: Observations) -> bool:
    """Returns whether the gateway is known to split traffic exactly as `weights` says."""
    if not observations.arms or not weights:
        return False
    for arm in {*weights, *observations.arms}:
        found = seen(observations, arm)
        if found is None or (found.weight_applied or 0) != weights.get(arm, 0):
            return False
        if found.weight_applied is None and weights.get(arm, 0) == 0 and found.total > 0 and arm in weights:
            return False  # Not read back: unknown, not zero.
    return True


def traffic_in_force(state: State, observations: Observations) -> bool:
    """Returns whether the gateway splits and copies traffic exactly as the state asks."""
    if not weights_in_force(state.weights, observations):
        return False
    arms = {*state.mirrors, *observations.arms}
    found = {arm: seen(observations, arm) for arm in arms}
    return all(one is not None and one.mirror_applied == state.mirrors.get(arm, 0) for arm, one in found.items())


def weights_seen(state: State, observations: Observations) -> dict[str, int]:
    """Returns the weights in force between stable and the candidates; nothing where they are not all known."""
    arms = [target.arm for target in (state.stable, *state.candidates) if target is not None]
    weights = {}
    for arm in arms:
        found = seen(observations, arm)
        if found is not None and found.weight_applied is not None:
            weights[arm] = round(found.weight_applied)
    return weights if len(weights) == len(arms) and sum(weights.values()) == 100 else {}


def carries_traffic(state: State, observations: Observations) -> bool:
    """Returns whether a candidate gets traffic, as far as can be told."""
    for target in state.candidates:
        found = seen(observations, target.arm)
        if found is None or found.weight_applied is None:
            if state.weights.get(target.arm, 0) > 0 or state.weights_confirmed.get(target.arm, 0) > 0:
                return True
        elif found.weight_applied > 0:
            return True
    return False


def _can_be(number: float) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number >= 0


def _other_bundle(found: ArmObservation, target: Target) -> bool:
    return bool(found.digest and target.digest and found.digest != target.digest)
