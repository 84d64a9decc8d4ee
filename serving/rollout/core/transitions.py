"""Changes of state with a meaning: a new start, a step, the way back. Each returns a new state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from slipway.contracts.rollout import ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.ingest import fresh_step
from slipway.serving.rollout.core.observations import Target
from slipway.serving.rollout.core.types import Phase, State


def new_state(spec: RolloutSpec, now: float, went_back: Iterable[str] = ()) -> State:
    """Returns the state of a rollout that was not looked at yet.

    Args:
        spec: What is wanted.
        now: Seconds.
        went_back: Digests (or arm names, where there is no digest) of versions that went back. One of them is not
            tried again until someone says retry.
    """
    candidates = tuple(_target(candidate) for candidate in spec.candidates)
    stable = None if spec.stable is None else _target(spec.stable)
    known_good = None if spec.known_good is None else _target(spec.known_good)
    return begin(candidates, stable, known_good, now, tuple(went_back))


def begin(
    candidates: tuple[Target, ...],
    stable: Target | None,
    known_good: Target | None,
    now: float,
    went_back: tuple[str, ...],
    handled: tuple[str, ...] = (),
) -> State:
    """Returns the first state for these candidates; a version that went back stays back."""
    tried = all(candidate.identity in went_back for candidate in candidates)
    reason = "This version went back before; it is tried again when its bundle changes or someone says retry."
    return State(
        phase=Phase.ROLLED_BACK if tried else Phase.PENDING,
        candidates=candidates,
        stable=stable,
        known_good=known_good,
        started=now,
        phase_since=now,
        last_now=now,
        dropped={}
        if tried
        else {candidate.arm: "went back before" for candidate in candidates if candidate.identity in went_back},
        weights={} if stable is None or tried else all_to(stable, candidates),
        reason=reason if tried else "Waiting for the candidate to start.",
        went_back=went_back,
        handled=handled,
    )


def all_to(stable: Target, candidates: Iterable[Target]) -> dict[str, int]:
    """Returns the weights that give stable everything."""
    return {stable.arm: 100, **{candidate.arm: 0 for candidate in candidates}}


def to_phase(state: State, phase: Phase, reason: str, now: float) -> State:
    """Returns the state in another phase."""
    since = state.phase_since if phase is state.phase else now
    return replace(state, phase=phase, reason=reason, phase_since=since)


def to_step(state: State, policy: RolloutPolicy, step: int, reason: str, now: float) -> State:
    """Returns the state at a step, its weights asked for and not confirmed yet. Evidence is kept."""
    chosen = policy.steps[step]
    if chosen.weight * len(state.active) > 100:
        # A policy edited in the meantime may leave room for one only; stable must never get less than nothing.
        crowded = {target.arm: f"There is no room for it at {chosen.weight} %." for target in state.active[1:]}
        state = drop(state, crowded, now, remember=False)
    weights = {target.arm: 0 for target in state.candidates} | {target.arm: chosen.weight for target in state.active}
    if state.stable is not None:
        weights[state.stable.arm] = 100 - chosen.weight * len(state.active)
    mirrors = {target.arm: chosen.mirror for target in state.active} if chosen.mirror else {}
    state = replace(fresh_step(state), step=step, step_since=None, approved=False, skip=False)
    state = replace(state, weights=weights, mirrors=mirrors)
    return replace(to_phase(state, Phase.PROGRESSING, reason, now), phase_since=now)


def drop(state: State, arms: Mapping[str, str], now: float, *, remember: bool) -> State:
    """Returns the state without these candidates: stopped while the others go on, or on its way back without any.

    Args:
        state: Before.
        arms: Why, by arm.
        now: Seconds.
        remember: Whether those versions must not be tried again by themselves.
    """
    leaving = {arm: why for arm, why in arms.items() if arm not in state.dropped}
    if not leaving:
        return state
    if len(leaving) == len(state.active):
        return begin_rollback(state, "; ".join(dict.fromkeys(leaving.values())), now, remember=remember)
    went_back = state.went_back
    if remember:
        gone = [target.identity for target in state.active if target.arm in leaving]
        went_back = (*went_back, *(identity for identity in gone if identity not in went_back))
    weights = dict(state.weights)
    for arm in leaving:
        freed = weights.get(arm, 0)
        if state.stable is not None and freed:
            weights[state.stable.arm] = weights.get(state.stable.arm, 0) + freed
        weights[arm] = 0
    mirrors = {arm: share for arm, share in state.mirrors.items() if arm not in leaving}
    return replace(state, dropped={**state.dropped, **leaving}, went_back=went_back, weights=weights, mirrors=mirrors)


def begin_rollback(state: State, reason: str, now: float, *, remember: bool = True, aborted: bool = False) -> State:
    """Returns the state on its way back. Which weights that means is decided afresh at every look.

    Args:
        state: Before.
        reason: Why.
        now: Seconds.
        remember: Whether this version must not be tried again by itself.
        aborted: Whether a person wants it gone even where nothing else can serve.
    """
    went_back = state.went_back
    if remember:
        identities = (target.identity for target in state.active)
        went_back = (*went_back, *(identity for identity in identities if identity not in went_back))
    state = replace(state, went_back=went_back, aborted=aborted, resume_to=None, mirrors={})
    return to_phase(state, Phase.ROLLING_BACK, reason, now)


def _target(target: ArmTarget) -> Target:
    return Target(target.arm, target.version, target.digest)
