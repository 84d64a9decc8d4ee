"""Made-up sequences of observations for the rollout core: broken, late, doubled, out of order.

Hypothesis makes up the plane, the readings, the commands and the clock; `play` runs `decide` through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.observations import (
    ArmObservation,
    Command,
    Observations,
    SmokeTestResult,
    Target,
    WindowCount,
)
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import Action, MoveAlias, Phase, SetWeights, SmokeTest, StartArm, State, StopArm

STABLE, CANDIDATE, OTHER = "films-v1", "films-v2", "films-v3"
SETTINGS = settings(
    max_examples=45,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Stage.explicit, Stage.generate, Stage.shrink),
)
MINIMUM = 20
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
        {"steps": steps, "guardrails": GUARDRAILS, "no_data": {"hold_for": "6s"}, "readiness_timeout": "20s"} | changes
    )


LAST = {"weight": 100, "minimum_dwell": "1s", "minimum_samples": MINIMUM}
MIRRORED = {"weight": 0, "mirror": 50, "minimum_dwell": "1s", "minimum_samples": MINIMUM}
FREEZE = ("1970-01-01T00:16:45+00:00", "1970-01-01T00:16:57+00:00")
POLICIES = [
    policy_of(),
    policy_of(inconclusive="proceed", on_new_version="queue"),
    policy_of(inconclusive="rollback", on_new_version="refuse", known_good="0"),
    policy_of(no_data={"hold_for": "5s", "then": "hold"}),
    policy_of(steps=[{"weight": 30, "minimum_dwell": "1s", "minimum_samples": MINIMUM, "gate": True}, LAST]),
    policy_of(steps=[{"weight": 100, "minimum_dwell": "0s", "minimum_samples": MINIMUM}], guardrails=GUARDRAILS[:1]),
    policy_of(watch={"duration": "10s"}, early_promotion=True),
    policy_of(watch={"duration": "8s", "control": 20}, freeze=[{"start": FREEZE[0], "end": FREEZE[1]}]),
    policy_of(steps=[MIRRORED, {**LAST, "weight": 30}, LAST]),
    policy_of(strategy="shadow", steps=[MIRRORED], inconclusive="rollback"),
    policy_of(steps=[{**LAST, "weight": 30, "deadline": "8s"}, LAST], horizon="fixed", inconclusive="rollback"),
    policy_of(freeze=[{"start": "1970-01-01", "end": FREEZE[0]}]),
]
SHADOW = 9
FROZEN_AT_FIRST = 11
SPEC = RolloutSpec(
    id="r",
    model="films",
    candidates=(ArmTarget(arm=CANDIDATE, version="2", digest="two"),),
    stable=ArmTarget(arm=STABLE, version="1", digest="one"),
    known_good=ArmTarget(arm="films-v0", version="0", digest="zero"),
)
SEVERAL = SPEC.model_copy(update={"candidates": (*SPEC.candidates, ArmTarget(arm=OTHER, version="3", digest="three"))})
DIGESTS = {STABLE: "one", CANDIDATE: "two", OTHER: "three", "films-v0": "zero"}

odd_numbers = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.5, 1e300, 0.0])
counts_of_one = st.tuples(st.integers(0, 200), st.floats(0, 1)).map(lambda pair: (round(pair[0] * pair[1]), pair[0]))
odd_counts = st.tuples(st.one_of(odd_numbers, st.integers(0, 50)), st.one_of(odd_numbers, st.integers(0, 50)))
readings = st.one_of(counts_of_one, counts_of_one, counts_of_one, odd_counts)
healthy = st.just((2, 2, False, 0))
lost = st.just((0, 2, False, 0))
lost = st.just((0, 2, False, 0))
arm_states = st.one_of(
    *[healthy] * 8,
    lost,
    lost,
    st.tuples(st.sampled_from([0, 1, 2, -1, math.nan]), st.sampled_from([0, 2]), st.booleans(), st.integers(0, 9)),
)


@dataclass(frozen=True)
class Tick:
    """One look of a made-up world."""

    seconds: float
    obeyed: bool
    plane_answers: bool
    candidate: tuple[Any, ...]
    other: tuple[Any, ...]
    stable: tuple[Any, ...]
    counts: tuple[tuple[str, str, float, tuple[Any, Any]], ...]
    repeat_old: bool
    smoke_passes: bool
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
        ("errors", OTHER, 0.0, four[2]),
        ("clicks", OTHER, 0.0, four[0]),
    )
)
good_window = st.integers(20, 200).map(
    lambda n: tuple(
        (guardrail, arm, 0.0, (0 if guardrail == "errors" else n // 2, n))
        for guardrail in ("errors", "clicks")
        for arm in (CANDIDATE, OTHER, STABLE)
    )
)
bad_window = st.sampled_from([(CANDIDATE,), (OTHER,), (CANDIDATE, OTHER), (STABLE,)]).map(
    lambda harmed: tuple(
        (guardrail, arm, 0.0, ((80 if arm in harmed else 0) if guardrail == "errors" else 50, 100))
        for guardrail in ("errors", "clicks")
        for arm in (CANDIDATE, OTHER, STABLE)
    )
)
stray_windows = st.lists(
    st.tuples(
        guardrail_names,
        st.sampled_from([CANDIDATE, OTHER, STABLE, "another"]),
        st.sampled_from([0.0, -3.0, 500.0]),
        readings,
    ),
    max_size=3,
).map(tuple)
ticks = st.builds(
    Tick,
    seconds=st.one_of(*[st.just(1.0)] * 10, st.sampled_from([0.0, -100.0, 1e6, math.nan, 30.0])),
    obeyed=st.sampled_from([True] * 6 + [False]),
    plane_answers=st.sampled_from([True] * 9 + [False]),
    candidate=arm_states,
    other=arm_states,
    stable=arm_states,
    counts=st.one_of(*[good_window] * 5, bad_window, whole_window, stray_windows),
    repeat_old=st.booleans(),
    smoke_passes=st.sampled_from([True] * 5 + [False]),
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
    for arm in (CANDIDATE, OTHER, STABLE)
)
sequences = st.tuples(st.integers(0, len(POLICIES) - 1), st.lists(ticks, min_size=5, max_size=50), st.booleans())
long_sequences = st.tuples(
    st.integers(0, len(POLICIES) - 1), st.lists(ticks, min_size=25, max_size=50), st.sampled_from([True, True, False])
)


@dataclass(frozen=True)
class Look:
    """What was seen and what came of it."""

    before: State
    seen: Observations
    after: State
    actions: tuple[Action, ...]
    policy: RolloutPolicy
    now: float


def play(
    sequence: tuple[int, list[Tick], bool],
    change: Callable[[Tick], Tick] = lambda tick: tick,
    spec: RolloutSpec = SPEC,
) -> list[Look]:
    """Runs `decide` through a sequence, from a stored state at every look, on a plane that obeys now and then."""
    index, made_up, prompt = sequence
    policy = POLICIES[index]
    now = 1000.0
    state = new_state(spec.model_copy(update={"policy": policy}), now)
    weights: dict[str, int] = {STABLE: 100}
    mirrors: dict[str, int] = {}
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
                other=(2, 2, False, 0),
                stable=(2, 2, False, 0),
                counts=GOOD,
                metrics_error=None,
                smoke_passes=True,
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
            ready, total, looping, restarts = {CANDIDATE: tick.candidate, OTHER: tick.other}.get(arm, tick.stable)
            weight, mirror = weights.get(arm, 0), mirrors.get(arm, 0)
            arms[arm] = ArmObservation(ready, total, looping, restarts, weight, digest, mirror)
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
                    running.setdefault(arm, DIGESTS[arm])
                case SetWeights(weights=asked, mirrors=copies):
                    weights, mirrors = dict(asked), dict(copies)
                case StopArm(arm=arm):
                    running.pop(arm, None)
                case MoveAlias(version=version):
                    champion = version
                case SmokeTest(arm=arm):
                    smoke = SmokeTestResult(arm, tick.smoke_passes)
                case _:
                    pass
        now = now if math.isfinite(now) else start
    return looks


def asked_weights(look: Look) -> dict[str, int] | None:
    return next((dict(action.weights) for action in look.actions if isinstance(action, SetWeights)), None)


def starts_anew(look: Look) -> bool:
    return look.after.phase is Phase.PENDING and look.before.phase not in (Phase.PENDING, Phase.STARTING)
