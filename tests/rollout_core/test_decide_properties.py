"""The rules that hold on every sequence of observations, however broken, late, doubled or out of order.

Hypothesis makes up the plane, the readings, the commands and the clock; each rule is checked at every look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import (
    Action,
    ArmObservation,
    Command,
    MoveAlias,
    Observations,
    Outcome,
    Phase,
    SetWeights,
    SmokeTest,
    SmokeTestResult,
    StartArm,
    State,
    StopArm,
    Target,
    WindowCount,
)

STABLE, CANDIDATE = "films-v1", "films-v2"
SETTINGS = settings(
    max_examples=45,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Stage.explicit, Stage.generate, Stage.shrink),
)
MINIMUM = 20
GOING_BACK = {Phase.ROLLING_BACK, Phase.HOLDING, Phase.ROLLED_BACK, Phase.FAILED}
GUARDRAILS = [
    {
        "name": "errors",
        "kind": "errors",
        "margin": {"odds_ratio": 1.5, "absolute": 0.05},
        "hard_limit": {"rate": 0.2, "minimum_samples": 5},
    },
    {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.5}},
]


def policy_of(**changes: Any) -> RolloutPolicy:
    steps = [
        {"weight": weight, "minimum_dwell": "1s", "minimum_samples": MINIMUM, "deadline": "60s"}
        for weight in (10, 50, 100)
    ]
    return RolloutPolicy.model_validate(
        {"steps": steps, "guardrails": GUARDRAILS, "no_data": {"hold_for": "15s"}, "readiness_timeout": "20s"} | changes
    )


LAST = {"weight": 100, "minimum_dwell": "1s", "minimum_samples": MINIMUM}
POLICIES = [
    policy_of(),
    policy_of(inconclusive="proceed", on_new_version="queue"),
    policy_of(inconclusive="rollback", on_new_version="refuse", known_good="0"),
    policy_of(no_data={"hold_for": "5s", "then": "hold"}),
    policy_of(steps=[{"weight": 30, "minimum_dwell": "1s", "minimum_samples": MINIMUM, "gate": True}, LAST]),
    policy_of(steps=[{"weight": 100, "minimum_dwell": "0s", "minimum_samples": MINIMUM}], guardrails=GUARDRAILS[:1]),
]
SPEC = RolloutSpec(
    id="r",
    model="films",
    candidates=(ArmTarget(arm=CANDIDATE, version="2", digest="two"),),
    stable=ArmTarget(arm=STABLE, version="1", digest="one"),
    known_good=ArmTarget(arm="films-v0", version="0", digest="zero"),
)

odd_numbers = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.5, 1e300, 0.0])
counts_of_one = st.tuples(st.integers(0, 200), st.floats(0, 1)).map(lambda pair: (round(pair[0] * pair[1]), pair[0]))
odd_counts = st.tuples(st.one_of(odd_numbers, st.integers(0, 50)), st.one_of(odd_numbers, st.integers(0, 50)))
readings = st.one_of(counts_of_one, counts_of_one, counts_of_one, odd_counts)
healthy = st.just((2, 2, False, 0))
arm_states = st.one_of(
    *[healthy] * 8,
    st.tuples(st.sampled_from([0, 1, 2, -1, math.nan]), st.sampled_from([0, 2]), st.booleans(), st.integers(0, 9)),
)


@dataclass(frozen=True)
class Tick:
    """One look of a made-up world."""

    seconds: float
    obeyed: bool
    plane_answers: bool
    candidate: tuple[Any, ...]
    stable: tuple[Any, ...]
    counts: tuple[tuple[str, str, float, tuple[Any, Any]], ...]
    repeat_old: bool
    metrics_error: str | None
    command: str | None
    desired: Target | None
    policy: int | None


guardrail_names = st.sampled_from(["errors", "clicks", ASSIGNMENT, "unknown"])
whole_window = st.tuples(readings, readings, readings, readings).map(
    lambda four: (
        ("errors", CANDIDATE, 0.0, four[0]),
        ("errors", STABLE, 0.0, four[1]),
        ("clicks", CANDIDATE, 0.0, four[2]),
        ("clicks", STABLE, 0.0, four[3]),
    )
)
good_window = st.integers(20, 200).map(
    lambda n: tuple(
        (guardrail, arm, 0.0, (0 if guardrail == "errors" else n // 2, n))
        for guardrail in ("errors", "clicks")
        for arm in (CANDIDATE, STABLE)
    )
)
stray_windows = st.lists(
    st.tuples(
        guardrail_names, st.sampled_from([CANDIDATE, STABLE, "other"]), st.sampled_from([0.0, -3.0, 500.0]), readings
    ),
    max_size=3,
).map(tuple)
ticks = st.builds(
    Tick,
    seconds=st.one_of(*[st.just(1.0)] * 10, st.sampled_from([0.0, -100.0, 1e6, math.nan, 30.0])),
    obeyed=st.sampled_from([True] * 6 + [False]),
    plane_answers=st.sampled_from([True] * 9 + [False]),
    candidate=arm_states,
    stable=arm_states,
    counts=st.one_of(*[good_window] * 5, whole_window, stray_windows),
    repeat_old=st.booleans(),
    metrics_error=st.sampled_from([None] * 9 + ["connection refused"]),
    command=st.sampled_from([None] * 20 + ["pause", "resume", "resume", "approve", "approve", "retry", "abort"]),
    desired=st.sampled_from(
        [None] * 30 + [Target(CANDIDATE, "2", "two"), Target("films-v3", "3", "three"), Target(STABLE, "1", "one")]
    ),
    policy=st.sampled_from([None] * 30 + list(range(len(POLICIES)))),
)
GOOD = tuple(
    (guardrail, arm, 0.0, (0 if guardrail == "errors" else 50, 100))
    for guardrail in ("errors", "clicks")
    for arm in (CANDIDATE, STABLE)
)
sequences = st.tuples(st.integers(0, len(POLICIES) - 1), st.lists(ticks, min_size=5, max_size=50), st.booleans())


@dataclass(frozen=True)
class Look:
    """What was seen and what came of it."""

    before: State
    seen: Observations
    after: State
    actions: tuple[Action, ...]
    policy: RolloutPolicy
    now: float


def play(sequence: tuple[int, list[Tick], bool], change: Callable[[Tick], Tick] = lambda tick: tick) -> list[Look]:
    """Runs `decide` through a sequence, from a stored state at every look, on a plane that obeys now and then."""
    index, made_up, prompt = sequence
    policy = POLICIES[index]
    now = 1000.0
    state = new_state(SPEC.model_copy(update={"policy": policy}), now)
    weights: dict[str, int] = {STABLE: 100}
    running = {STABLE: "one"}
    champion, smoke, looks, old = "1", None, [], ()
    for number, tick in enumerate(made_up):
        if prompt and number < len(made_up) * 2 // 3:  # No mischief at first, so that later steps are reached.
            tick = replace(
                tick,
                seconds=1.0,
                obeyed=True,
                plane_answers=True,
                candidate=(2, 2, False, 0),
                stable=(2, 2, False, 0),
                counts=GOOD,
                metrics_error=None,
                command="approve" if tick.repeat_old else None,
                desired=None,
            )
        tick = change(tick)
        policy = policy if tick.policy is None or prompt else POLICIES[tick.policy]
        start = now
        now = now + tick.seconds if math.isfinite(tick.seconds) else tick.seconds
        end = now if math.isfinite(now) else start
        counts = tuple(
            WindowCount(name, arm, start + shift, max(end, start + 0.5) + shift, *pair)
            for name, arm, shift, pair in tick.counts
        )
        arms = {}
        for arm, digest in running.items():
            ready, total, looping, restarts = tick.candidate if arm == CANDIDATE else tick.stable
            arms[arm] = ArmObservation(ready, total, looping, restarts, weights.get(arm, 0), digest)
        seen = Observations(
            at=now,
            arms=arms if tick.plane_answers else {},
            counts=counts + (old if tick.repeat_old else ()),
            metrics_error=tick.metrics_error,
            desired=tick.desired,
            commands=() if tick.command is None else (Command(f"c{number}", tick.command),),
            smoke_test=smoke,
            champion=champion,
        )
        old = counts
        before = state
        state, actions = decide(before, seen, policy, now)
        assert decide(from_json(State, to_json(before)), seen, policy, now) == (state, actions), "not a pure function"
        assert from_json(State, to_json(state)) == state, "the state does not survive being stored"
        looks.append(Look(before, seen, state, actions, policy, now))
        smoke = None
        for action in actions if tick.obeyed else ():
            match action:
                case StartArm(arm=arm):
                    running.setdefault(arm, {STABLE: "one", CANDIDATE: "two"}.get(arm, "three"))
                case SetWeights(weights=asked):
                    weights = dict(asked)
                case StopArm(arm=arm):
                    running.pop(arm, None)
                case MoveAlias(version=version):
                    champion = version
                case SmokeTest(arm=arm):
                    smoke = SmokeTestResult(arm, True)
                case _:
                    pass
        now = now if math.isfinite(now) else start
    return looks


def asked_weights(look: Look) -> dict[str, int] | None:
    return next((dict(action.weights) for action in look.actions if isinstance(action, SetWeights)), None)


def starts_anew(look: Look) -> bool:
    return look.after.phase is Phase.PENDING and look.before.phase not in (Phase.PENDING, Phase.STARTING)


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
@given(sequences)
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

    @settings(SETTINGS, max_examples=15)
    @given(st.lists(ticks, min_size=15, max_size=50), st.booleans())
    def collect(made_up, prompt):
        reached.update(look.after.phase for look in play((index, made_up, prompt)))

    collect()
    gate = Phase.AWAITING_GATE if any(step.gate for step in POLICIES[index].steps) else Phase.PROGRESSING
    assert {Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLED_BACK, gate} <= reached
