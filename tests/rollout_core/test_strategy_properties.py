"""Rules of several candidates, shadows, freezes and the watch, on every sequence of observations."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rollout_sequences import (
    CANDIDATE,
    FROZEN_AT_FIRST,
    OTHER,
    POLICIES,
    SETTINGS,
    SEVERAL,
    SHADOW,
    STABLE,
    asked_weights,
    long_sequences,
    play,
    sequences,
    starts_anew,
    ticks,
)

from slipway.serving.rollout.core.types import MoveAlias, Outcome, Phase, StopArm

BELOW_HALF = st.sampled_from([index for index, policy in enumerate(POLICIES) if policy.steps[0].weight <= 50])
CANDIDATES = {CANDIDATE, OTHER}
GOING_BACK = {Phase.ROLLING_BACK, Phase.HOLDING, Phase.ROLLED_BACK, Phase.FAILED}
made_up = st.lists(ticks, min_size=5, max_size=50)


@SETTINGS
@given(sequences)
def test_weights_asked_for_always_are_a_whole_and_never_negative(sequence):
    for spec_looks in (play(sequence), play(sequence, spec=SEVERAL)):
        for look in spec_looks:
            weights = asked_weights(look)
            if weights is not None and STABLE in weights:
                assert sum(weights.values()) == 100, weights
                assert min(weights.values()) >= 0, weights


@SETTINGS
@given(BELOW_HALF, made_up, st.booleans())
def test_a_dropped_candidate_gets_no_traffic_until_the_rollout_starts_anew(index, looks_made_up, prompt):
    for look in play((index, looks_made_up, prompt), spec=SEVERAL):
        weights = asked_weights(look)
        if weights is None or starts_anew(look) or look.after.phase is Phase.HOLDING:
            continue
        for arm in look.after.dropped:
            assert weights.get(arm, 0) == 0


@SETTINGS
@given(BELOW_HALF, made_up, st.booleans())
def test_harm_of_one_of_several_ends_that_one_at_the_same_look(index, looks_made_up, prompt):
    for look in play((index, looks_made_up, prompt), spec=SEVERAL):
        if starts_anew(look) or look.after.phase in GOING_BACK:
            continue
        harmed = {v.arm for v in look.after.verdicts if v.outcome is Outcome.FAIL and not v.dry_run}
        active = {target.arm for target in look.before.active}
        if look.after.candidates == look.before.candidates and look.after.phase is not Phase.PROMOTED:
            assert harmed & active & CANDIDATES <= set(look.after.dropped)


@SETTINGS
@given(made_up, st.booleans())
def test_a_shadow_never_gets_traffic_and_never_becomes_champion(looks_made_up, prompt):
    assume(all(tick.policy is None for tick in looks_made_up))
    for look in play((SHADOW, looks_made_up, prompt)):
        weights = asked_weights(look) or {}
        assert all(weights.get(arm, 0) == 0 for arm in CANDIDATES)
        assert not any(isinstance(action, MoveAlias) for action in look.actions)
        assert look.after.phase not in (Phase.PROMOTING, Phase.PROMOTED)


@SETTINGS
@given(long_sequences)
def test_no_candidate_gets_more_traffic_within_a_freeze(sequence):
    for look in play(sequence):
        if look.policy.frozen(look.after.last_now) is None or starts_anew(look):
            continue
        before, after = (state.weights.get(CANDIDATE, 0) for state in (look.before, look.after))
        people = look.before.forced or look.before.skip
        finishing = look.after.phase in (Phase.PROMOTING, Phase.WATCHING, Phase.HOLDING)
        assert after <= before or people or finishing, (look.before.phase, look.after.phase)


@SETTINGS
@given(st.lists(ticks, min_size=12, max_size=30))
def test_a_freeze_keeps_a_new_version_from_its_first_traffic(looks_made_up):
    for look in play((FROZEN_AT_FIRST, looks_made_up, True)):
        if look.policy.frozen(look.after.last_now) is not None and look.after.phase is not Phase.HOLDING:
            # The clock may be set back into the freeze when there is traffic already.
            assert look.after.weights.get(CANDIDATE, 0) <= look.before.weights.get(CANDIDATE, 0)


@SETTINGS
@given(long_sequences)
def test_stable_is_never_stopped_before_the_watch_is_over(sequence):
    for look in play(sequence):
        stopped = {action.arm for action in look.actions if isinstance(action, StopArm)}
        stable = look.after.stable
        if stable is not None and stable.arm in stopped and look.after.phase is Phase.PROMOTING:
            assert look.after.watched or look.policy.watch.duration == 0


@pytest.mark.parametrize(("index", "phase"), [(6, Phase.WATCHING), (SHADOW, Phase.COMPLETING)])
def test_the_sequences_reach_the_phases_that_these_rules_are_about(index, phase):
    reached = set()

    @SETTINGS
    @given(st.lists(ticks, min_size=30, max_size=50))
    def collect(looks_made_up):
        reached.update(look.after.phase for look in play((index, looks_made_up, True)))

    collect()
    assert phase in reached
