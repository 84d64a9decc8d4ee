"""Candidates leave a rollout one after the other, and none of them comes back by it."""

from __future__ import annotations

from slipway.serving.rollout.core.observations import Target
from slipway.serving.rollout.core.transitions import drop
from slipway.serving.rollout.core.types import Phase, State

ARMS = ("films-v2", "films-v3", "films-v4")


def test_who_was_dropped_before_stays_so_when_another_one_is() -> None:
    state = State(
        phase=Phase.PROGRESSING,
        candidates=tuple(Target(arm, arm[-1], digest=arm) for arm in ARMS),
        stable=Target("films-v1", "1"),
        started=0.0,
        phase_since=0.0,
        weights={"films-v1": 70, **dict.fromkeys(ARMS, 10)},
    )
    for arm, left in (("films-v2", ARMS[1:]), ("films-v4", ARMS[1:2])):
        state = drop(state, {arm: "evidence of harm"}, 10.0, remember=True)
        assert tuple(target.arm for target in state.active) == left
        assert state.weights[arm] == 0
    assert set(state.dropped) == {"films-v2", "films-v4"}
    assert state.phase is Phase.PROGRESSING
