"""The rules that hold on every sequence of observations, however broken, late, doubled or out of order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_sequences import (
    CANDIDATE,
    MINIMUM,
    POLICIES,
    SETTINGS,
    SPEC,
    STABLE,
    Tick,
    asked_weights,
    good_window,
    long_sequences,
    play,
    policy_of,
    sequences,
    starts_anew,
    ticks,
)

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.observations import ArmObservation, Command, Observations, WindowCount
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import MoveAlias, Outcome, Phase, SetWeights, State, StopArm

GOING_BACK = {Phase.ROLLING_BACK, Phase.HOLDING, Phase.ROLLED_BACK, Phase.FAILED}


def usable(count: WindowCount) -> bool:
    return all(math.isfinite(number) for number in (count.events, count.n)) and 0 <= count.events <= count.n


@SETTINGS
@given(sequences)
def test_it_never_raises_and_a_stored_state_decides_the_same(sequence):
    play(sequence)


@SETTINGS
@given(sequences)
def test_no_step_is_taken_and_nothing_promoted_without_enough_samples_of_every_guardrail(sequence):
    possible = {"errors": 0.0, "clicks": 0.0}
    seen_windows = set()
    for look in play(sequence):
        if starts_anew(look):
            possible = dict.fromkeys(possible, 0.0)
        for count in look.seen.counts:
            identity = (count.guardrail, count.arm, count.start, count.end)
            if (
                count.arm == CANDIDATE
                and count.guardrail in possible
                and usable(count)
                and identity not in seen_windows
            ):
                possible[count.guardrail] += count.n
                seen_windows.add(identity)
        rose = look.after.phase is Phase.PROMOTING and look.before.phase is not Phase.PROMOTING
        rose |= look.after.step > look.before.step and look.after.phase is Phase.PROGRESSING
        if rose and look.after.candidate.arm == CANDIDATE:
            asked = look.policy.guardrails
            assert all(possible[guardrail.name] >= MINIMUM for guardrail in asked)
            assert look.seen.metrics_error is None
            possible = dict.fromkeys(possible, 0.0)


@SETTINGS
@given(sequences, st.sampled_from(["nothing", "zeros", "nan", "errors", "one arm"]))
def test_no_data_never_promotes_nor_takes_a_step(sequence, kind):
    index, made_up, _ = sequence

    def emptied(tick: Tick) -> Tick:
        if kind == "nothing":
            return replace(tick, counts=())
        if kind == "errors":
            return replace(tick, metrics_error="down")
        if kind == "one arm":
            return replace(tick, counts=tuple(count for count in tick.counts if count[1] != CANDIDATE))
        pair = (0, 0) if kind == "zeros" else (math.nan, 10)
        return replace(tick, counts=tuple((*count[:3], pair) for count in tick.counts))

    for look in play(sequence, emptied):
        assert look.after.phase not in (Phase.PROMOTING, Phase.PROMOTED)
        if look.policy is POLICIES[index] and not any(tick.policy is not None for tick in made_up):
            assert look.after.step == 0


@SETTINGS
@given(st.integers(0, len(POLICIES) - 1), st.lists(ticks, min_size=30, max_size=45))
def test_without_data_a_step_ends_within_the_time_that_the_policy_holds(index, made_up):
    for look in play((index, made_up, True), lambda tick: replace(tick, counts=(), policy=None)):
        state, policy = look.after, look.policy
        if state.phase is not Phase.PROGRESSING or state.step_since is None or policy.no_data.then == "hold":
            continue
        step = policy.steps[state.step]
        # A stable version that is not healthy holds the rollout, data or no data.
        if (step.weight or step.mirror) and (state.stable_was_healthy or step.weight == 100):
            assert "Waiting until" in state.reason or state.last_now - state.step_since <= policy.no_data.hold_for


@SETTINGS
@given(long_sequences)
def test_a_step_ends_only_under_the_weights_that_it_asks_for_and_beside_a_healthy_stable(sequence):
    for look in play(sequence):
        before, after = look.before, look.after
        advanced = after.phase is Phase.PROGRESSING and after.step > before.step and before.step_since is not None
        advanced |= after.phase in (Phase.PROMOTING, Phase.COMPLETING) and before.phase is Phase.PROGRESSING
        # A policy edited in the meantime may count the same weight as a later step.
        edited = before.weights == after.weights and after.phase is Phase.PROGRESSING
        if not advanced or edited or before.forced or before.skip or starts_anew(look):
            continue
        candidate, stable = look.seen.arms.get(CANDIDATE), look.seen.arms.get(STABLE)
        assert candidate is not None
        assert (candidate.weight_applied or 0) == before.weights.get(CANDIDATE, 0)
        assert candidate.mirror_applied == before.mirrors.get(CANDIDATE, 0)
        if look.policy.steps[before.step].weight < 100 and before.stable is not None:
            assert stable is not None
            assert stable.ready > 0
            assert not stable.crash_looping


@SETTINGS
@given(long_sequences)
def test_a_step_begins_only_when_its_weights_were_seen(sequence):
    for look in play(sequence):
        before, after = look.before, look.after
        if before.step_since is not None or after.step_since is None or after.step != before.step or starts_anew(look):
            continue
        for arm, found in look.seen.arms.items():
            assert (found.weight_applied or 0) == after.weights.get(arm, 0)
            assert found.mirror_applied == after.mirrors.get(arm, 0)


@SETTINGS
@given(long_sequences)
def test_an_unhealthy_stable_version_holds_the_step_and_sounds_the_alarm(sequence):
    for look in play(sequence):
        stable = look.seen.arms.get(STABLE)
        same = look.before.phase is look.after.phase is Phase.PROGRESSING and look.before.step == look.after.step
        if stable is None or not same or look.before.step_since is None or look.after.stable is None:
            continue
        valid = all(isinstance(n, int) and n >= 0 for n in (stable.ready, stable.total, stable.restarts))
        if valid and stable.ready == 0 and look.policy.steps[look.after.step].weight < 100:
            assert "Waiting until" in look.after.reason or STABLE in look.after.alarm


@SETTINGS
@given(long_sequences)
def test_weight_never_rises_after_harm_was_found(sequence):
    limit = None
    for look in play(sequence):
        if starts_anew(look):
            limit = None
        failed = [v for v in look.after.verdicts if v.outcome is Outcome.FAIL and not v.dry_run]
        if failed and limit is None and look.after.phase not in (Phase.PROMOTED,):
            assert look.after.phase in GOING_BACK
            found = look.seen.arms.get(CANDIDATE)
            limit = look.before.weights.get(CANDIDATE, 0) if found is None else found.weight_applied
        weights = asked_weights(look)
        if limit is not None and weights is not None:
            assert weights.get(CANDIDATE, 0) <= limit
            limit = min(limit, weights.get(CANDIDATE, 0)) if look.after.phase is Phase.ROLLING_BACK else limit


@SETTINGS
@given(sequences)
def test_a_crash_loop_or_lost_readiness_goes_back_at_the_same_look_wherever_it_stands(sequence):
    for look in play(sequence):
        found = look.seen.arms.get(CANDIDATE)
        if found is None or look.after.candidate.arm != CANDIDATE or starts_anew(look):
            continue
        valid = all(isinstance(n, int) and n >= 0 for n in (found.ready, found.total, found.restarts))
        if (
            not (valid or found.crash_looping)
            or look.before.terminal
            or look.after.phase in (Phase.PROMOTED, Phase.PENDING)
        ):
            continue
        if found.crash_looping or (look.before.were_ready and found.ready == 0):
            assert look.after.phase in GOING_BACK


@SETTINGS
@given(sequences)
def test_a_candidate_that_fails_its_smoke_test_goes_back_without_traffic(sequence):
    for look in play(sequence):
        result = look.seen.smoke_test
        if result is None or result.passed or look.before.phase is not Phase.SMOKE_TEST or starts_anew(look):
            continue
        if look.after.phase is not Phase.SMOKE_TEST and look.after.candidates == look.before.candidates:
            assert look.after.weights.get(CANDIDATE, 0) == 0


@SETTINGS
@given(sequences)
def test_traffic_never_returns_to_an_arm_that_is_seen_to_be_unhealthy(sequence):
    for look in play(sequence):
        weights = asked_weights(look)
        if weights is None or look.after.phase not in GOING_BACK:
            continue
        carried = (look.seen.arms.get(CANDIDATE) or ArmObservation(0, 0)).weight_applied or 0
        for arm, weight in weights.items():
            found = look.seen.arms.get(arm)
            if found is None or carried == 0 or weight <= (found.weight_applied or 0):
                continue
            sick = found.crash_looping or found.ready == 0
            assert not sick, (arm, weight, found)


@SETTINGS
@given(sequences)
def test_no_arm_is_stopped_unless_its_weight_of_zero_was_seen(sequence):
    for look in play(sequence):
        for action in look.actions:
            if isinstance(action, StopArm) and look.seen.arms.get(action.arm) is not None:
                assert look.seen.arms[action.arm].weight_applied == 0


@SETTINGS
@given(sequences, st.integers(0, 3))
def test_going_back_ends_at_zero_from_every_state_where_stable_is_healthy_also_after_restarts(sequence, disobeyed):
    looks = play(sequence)
    last = looks[-1]
    state, policy, now = last.after, last.policy, last.after.last_now
    if state.terminal or state.candidate.arm != CANDIDATE:
        return
    fine = ArmObservation(2, 2, digest="one")
    arms = {STABLE: fine, CANDIDATE: replace(fine, digest="two")}
    weights, champion = dict(state.weights), last.seen.champion
    for number in range(12 + disobeyed):
        now += 1
        seen = Observations(
            now,
            {arm: replace(found, weight_applied=weights.get(arm, 0)) for arm, found in arms.items()},
            commands=(Command("abort-now", "abort"),),
            champion=champion,
        )
        state, actions = decide(from_json(State, to_json(state)), seen, policy, now)
        if state.terminal:
            break
        if number < disobeyed:  # Whatever was asked is asked again, unchanged.
            _, repeated = decide(state, seen, policy, now)
            assert [a for a in repeated if isinstance(a, SetWeights)] == [
                a for a in actions if isinstance(a, SetWeights)
            ]
            continue
        for action in actions:
            match action:
                case SetWeights(weights=asked):
                    weights = dict(asked)
                case StopArm(arm=arm):
                    arms.pop(arm, None)
                case MoveAlias(version=version):
                    champion = version
                case _:
                    pass
    if any(evidence_of_breach(state, policy)):
        return  # Stable itself breaks the hard limit: not healthy, and then it holds.
    assert state.phase in (Phase.ROLLED_BACK, Phase.PROMOTED)
    if state.phase is Phase.ROLLED_BACK:
        assert weights.get(CANDIDATE, 0) == 0
        assert champion == "1"


def evidence_of_breach(state: State, policy: RolloutPolicy) -> list[bool]:
    from slipway.serving.rollout.core.judge import arm_breaks_limit

    return [arm_breaks_limit(state, STABLE, policy)]


@SETTINGS
@given(st.lists(good_window, min_size=3, max_size=12), st.randoms(use_true_random=False))
def test_doubled_late_and_reordered_windows_change_nothing(windows, random):
    policy = policy_of(steps=[{"weight": 50, "minimum_dwell": "1h"}, {"weight": 100}])
    start = replace(
        new_state(SPEC, 0.0),
        phase=Phase.PROGRESSING,
        weights={STABLE: 50, CANDIDATE: 50},
        traffic_since=0.0,
        step_since=0.0,
        were_ready=("films-v2",),
    )
    fine = ArmObservation(2, 2, weight_applied=50)
    arms = {STABLE: replace(fine, digest="one"), CANDIDATE: replace(fine, digest="two")}
    ordered, disturbed, past = start, start, []
    for number, window in enumerate(windows):
        counts = [WindowCount(name, arm, number, number + 1.0, *pair) for name, arm, _, pair in window]
        mixed = counts + random.sample(past, min(len(past), 4)) + random.sample(counts, 2)
        random.shuffle(mixed)
        past += counts
        now = number + 1.0
        ordered, _ = decide(ordered, Observations(now, arms, tuple(counts)), policy, now)
        disturbed, _ = decide(disturbed, Observations(now, arms, tuple(mixed)), policy, now)
    assert ordered == disturbed
    assert ordered.comparisons


@SETTINGS
@given(sequences)
def test_a_version_that_went_back_is_not_tried_again_by_itself(sequence):
    gone: set[str] = set()
    for look in play(sequence):
        retried = any(command.kind == "retry" for command in look.seen.commands)
        if starts_anew(look) and not retried:
            assert look.after.candidate.identity not in gone
        gone = set(look.after.went_back)


@pytest.mark.parametrize("index", range(len(POLICIES)))
def test_the_made_up_worlds_reach_the_phases_that_the_rules_are_about(index):
    reached = set()

    @settings(SETTINGS, max_examples=30)
    @given(st.lists(ticks, min_size=30, max_size=50), st.booleans())
    def collect(made_up, prompt):
        reached.update(look.after.phase for look in play((index, made_up, prompt)))

    collect()
    gate = Phase.AWAITING_GATE if any(step.gate for step in POLICIES[index].steps) else Phase.PROGRESSING
    end = Phase.COMPLETED if POLICIES[index].strategy == "shadow" else Phase.PROMOTING
    assert {Phase.PROGRESSING, end, Phase.ROLLED_BACK, gate} <= reached
