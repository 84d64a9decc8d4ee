"""A small world for the rollout core: arms, a gateway that splits traffic, and counters that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.observations import (
    ArmObservation,
    Command,
    Observations,
    SmokeTestResult,
    WindowCount,
)
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import Action, MoveAlias, Phase, SetWeights, SmokeTest, StartArm, State, StopArm

STABLE, CANDIDATE, GOOD, OTHER = "films-v1", "films-v2", "films-v0", "films-v3"
DIGESTS = {STABLE: "one", CANDIDATE: "two", GOOD: "zero", OTHER: "three"}
FAST: dict[str, Any] = {
    "steps": [
        {"weight": 5, "minimum_dwell": "3s", "minimum_samples": 50},
        {"weight": 25, "minimum_dwell": "3s", "minimum_samples": 50},
        {"weight": 50, "minimum_dwell": "3s", "minimum_samples": 50},
        {"weight": 100, "minimum_dwell": "3s", "minimum_samples": 50},
    ],
    "no_data": {"hold_for": "20s"},
    "readiness_timeout": "30s",
}
RATES = {"errors": 0.001, "latency": 0.02, "fallbacks": 0.01, "clicks": 0.3}


def make_spec(
    policy: RolloutPolicy, *, first: bool = False, known_good: bool = False, several: bool = False
) -> RolloutSpec:
    """Returns version 2 over version 1, version 2 alone, or versions 2 and 3 over version 1."""
    both = (ArmTarget(arm=CANDIDATE, version="2", digest="two"), ArmTarget(arm=OTHER, version="3", digest="three"))
    return RolloutSpec(
        id="r1",
        model="films",
        candidates=both if several else both[:1],
        stable=None if first else ArmTarget(arm=STABLE, version="1", digest="one"),
        known_good=ArmTarget(arm=GOOD, version="0", digest="zero") if known_good else None,
        policy=policy,
    )


@dataclass
class World:
    """Drives `decide` as a controller would, on a plane that does what it is asked one look later."""

    policy: RolloutPolicy
    seed: int = 0
    requests: int = 400
    first: bool = False
    known_good: bool = False
    several: bool = False
    candidate_rates: Mapping[str, float] = field(default_factory=dict)
    other_rates: Mapping[str, float] = field(default_factory=dict)
    stable_rates: Mapping[str, float] = field(default_factory=dict)
    state: State = field(init=False)
    actions: tuple[Action, ...] = ()
    weights: dict[str, int] = field(init=False)
    mirrors: dict[str, int] = field(default_factory=dict)
    arms: dict[str, ArmObservation] = field(init=False)
    champion: str = "1"
    now: float = 1000.0
    smoke: SmokeTestResult | None = None
    smoke_passes: bool = True
    obedient: bool = True
    readings: bool = True
    history: list[tuple[State, tuple[Action, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        spec = make_spec(self.policy, first=self.first, known_good=self.known_good, several=self.several)
        self.state = new_state(spec, self.now)
        self.weights = {} if self.first else {STABLE: 100}
        self.arms = {} if self.first else {STABLE: ArmObservation(2, 2, digest="one")}

    def windows(self) -> tuple[WindowCount, ...]:
        """Draws one second of traffic under the weights in force."""
        if not self.readings:
            return ()
        counts = []
        total = int(self.rng.poisson(self.requests))
        rates_of = {CANDIDATE: self.candidate_rates, OTHER: self.other_rates, STABLE: self.stable_rates}
        arms = {CANDIDATE, *([OTHER] if self.several else []), *([] if self.first else [STABLE])}
        taken = {arm: round(total * self.weights.get(arm, 0) / 100) for arm in sorted(arms - {STABLE})}
        for arm in sorted(arms):
            n = taken.get(arm, total - sum(taken.values()))
            copies = round(total * self.mirrors.get(arm, 0) / 100)
            for name, rate in {**RATES, **rates_of[arm]}.items():
                answered = n if name == "clicks" else n + copies  # no user answers to a copy
                events = int(self.rng.binomial(answered, rate))
                counts.append(WindowCount(name, arm, self.now, self.now + 1, events, answered))
            counts.append(WindowCount(ASSIGNMENT, arm, self.now, self.now + 1, 0, n))
        return tuple(counts)

    def look(self, *commands: Command, **changes: Any) -> State:
        """Lets one second pass, looks, decides (from a stored state) and carries the actions out."""
        counts = self.windows()
        self.now += 1
        seen = Observations(
            at=self.now,
            arms={
                name: replace(arm, weight_applied=self.weights.get(name, 0), mirror_applied=self.mirrors.get(name, 0))
                for name, arm in self.arms.items()
            },
            counts=counts,
            commands=commands,
            smoke_test=self.smoke,
            champion=self.champion,
        )
        self.smoke = None
        stored = from_json(State, to_json(self.state))
        assert stored == self.state
        self.state, self.actions = decide(stored, replace(seen, **changes), self.policy, self.now)
        self.history.append((self.state, self.actions))
        if self.obedient:
            for action in self.actions:
                self.carry_out(action)
        return self.state

    def carry_out(self, action: Action) -> None:
        """Does what the core asks."""
        match action:
            case StartArm(arm=arm):
                self.arms.setdefault(arm, ArmObservation(2, 2, digest=DIGESTS[arm]))
            case SetWeights(weights=weights, mirrors=mirrors):
                self.weights, self.mirrors = dict(weights), dict(mirrors)
            case StopArm(arm=arm):
                assert self.weights.get(arm, 0) == 0, "an arm that carries traffic was stopped"
                assert self.mirrors.get(arm, 0) == 0, "an arm that gets copies was stopped"
                self.arms.pop(arm, None)
            case SmokeTest(arm=arm):
                self.smoke = SmokeTestResult(arm, self.smoke_passes, "status 500")
            case MoveAlias(version=version):
                self.champion = version
            case _:
                pass

    def until(self, condition: Any, looks: int = 400) -> State:
        """Looks until a condition on the state holds."""
        for _ in range(looks):
            if condition(self.look()):
                return self.state
        raise AssertionError(f"never happened; at {self.state.phase} step {self.state.step}: {self.state.reason}")

    def to_end(self, looks: int = 600) -> State:
        """Looks until the rollout has ended."""
        return self.until(lambda state: state.terminal, looks)

    def asked(self, kind: type) -> list[Any]:
        """Returns the last look's actions of one kind."""
        return [action for action in self.actions if isinstance(action, kind)]


def progressing(step: int) -> Any:
    """Returns a condition on a state: it collects evidence at this step."""
    return lambda state: state.phase is Phase.PROGRESSING and state.step == step and state.step_since is not None
