"""Changes of state with a meaning: a new start, a step, the way back. Each returns a new state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from slipway.contracts.rollout import ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.ingest import fresh_step
from slipway.serving.rollout.core.types import Phase, State, Target


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
    tried = candidates[0].identity in went_back
    reason = "This version went back before; it is tried again when its bundle changes or someone says retry."
    return State(
        phase=Phase.ROLLED_BACK if tried else Phase.PENDING,
        candidates=candidates,
        stable=stable,
        known_good=known_good,
        started=now,
        phase_since=now,
        last_now=now,
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
    """Returns the state at a step, its weight asked for and not confirmed yet. Evidence is kept."""
    weight = policy.steps[step].weight
    weights = {state.candidate.arm: weight}
    if state.stable is not None:
        weights = {state.stable.arm: 100 - weight, **weights}
    state = replace(fresh_step(state), step=step, step_since=None, approved=False, skip=False, weights=weights)
    return replace(to_phase(state, Phase.PROGRESSING, reason, now), phase_since=now)


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
    if remember and state.candidate.identity not in went_back:
        went_back = (*went_back, state.candidate.identity)
    state = replace(state, went_back=went_back, aborted=aborted, resume_to=None)
    return to_phase(state, Phase.ROLLING_BACK, reason, now)


def _target(target: ArmTarget) -> Target:
    return Target(target.arm, target.version, target.digest)
