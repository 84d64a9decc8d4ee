"""`decide` itself in a simulation: the plane it is shown, and the check that the kernel decides as it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.hypergeometric import Ints
from slipway.serving.rollout.core.observations import (
    ArmObservation,
    Command,
    Observations,
    SmokeTestResult,
    WindowCount,
)
from slipway.serving.rollout.core.types import Action, MoveAlias, Phase, SetWeights, SmokeTest, StartArm, State, StopArm
from slipway.serving.rollout.simulation.endings import Ending, Endings
from slipway.serving.rollout.simulation.rollouts import Recording, Rollouts
from slipway.serving.rollout.simulation.windows import Windows

STABLE, CANDIDATE = "simulated-v1", "simulated-v2"
_LOOKS_TO_START = 20
_BEFORE = frozenset({"Pending", "Starting", "SmokeTest"})
_BACK = frozenset({"RollingBack", "RolledBack", "Failed"})
_UNDER_WATCH = frozenset({"Promoting", "Watching", "Completing"})
_ON = frozenset({"Promoted", "Completed"})


@dataclass
class SimulatedPlane:
    """One rollout under `decide`, on a plane that does at once what it is asked.

    Args:
        policy: The policy.
        watch: Whether the rollout goes on through the watch after promotion, or ends when that is decided.
    """

    policy: RolloutPolicy
    watch: bool = False
    state: State = field(init=False)
    weights: dict[str, int] = field(default_factory=lambda: {STABLE: 100})
    mirrors: dict[str, int] = field(default_factory=dict)
    up: set[str] = field(default_factory=lambda: {STABLE})
    champion: str = "1"
    smoke: SmokeTestResult | None = None
    step: int = 0
    approvals: int = 0

    def __post_init__(self) -> None:
        """Starts the candidate, at second 0, up to its first traffic."""
        candidates = (ArmTarget(arm=CANDIDATE, version="2", digest="two"),)
        stable = ArmTarget(arm=STABLE, version="1", digest="one")
        spec = RolloutSpec(id="simulated", model="simulated", candidates=candidates, stable=stable, policy=self.policy)
        self.state = new_state(spec, 0.0)
        for _ in range(_LOOKS_TO_START):
            if self.state.phase.value not in _BEFORE:
                break
            self._decide((), 0.0, 0, None)

    @property
    def weight(self) -> int:
        """Percent of traffic that the candidate has, or gets copies of."""
        return max(self.weights.get(CANDIDATE, 0), self.mirrors.get(CANDIDATE, 0))

    def look(self, windows: Windows) -> Ending:
        """Shows one window, of shape [1], and returns what is decided."""
        start, end = float(windows.start[0]), windows.end
        counts = []
        if windows.readable[0]:
            for arm, own in ((CANDIDATE, windows.candidate), (STABLE, windows.stable)):
                for name, count in own.items():
                    late = windows.late.get(name, 0.0)
                    seen = int(count.events[0]), int(count.n[0])
                    counts.append(WindowCount(name, arm, start - late, end - late, *seen))
            for arm, n in zip((CANDIDATE, STABLE), windows.requests, strict=True):
                counts.append(WindowCount(ASSIGNMENT, arm, start, end, 0, int(n[0])))
        problem = None if windows.readable[0] else "the scrape failed"
        self.step = self.state.step
        self._decide(tuple(counts), end, int(windows.restarts[0]), problem)
        return self.ending()

    def ending(self) -> Ending:
        """Returns what was decided, as far as it was."""
        phase, reason = self.state.phase.value, self.state.reason
        if phase in _ON or (phase in _UNDER_WATCH and not self.watch):
            return Ending.PROMOTED
        if phase == "Holding":
            return Ending.HELD
        if phase not in _BACK:
            return Ending.RUNNING
        if reason.startswith("Evidence of harm"):
            return Ending.HARM
        if reason.startswith("Hard fault"):
            return Ending.FAULT
        return Ending.NO_DATA if reason.startswith(("No usable", "Traffic is not")) else Ending.UNPROVEN

    def _decide(self, counts: tuple[WindowCount, ...], now: float, restarts: int, problem: str | None) -> None:
        seen = Observations(
            at=now,
            arms={arm: self._arm(arm, restarts if arm == CANDIDATE else 0) for arm in sorted(self.up)},
            counts=counts,
            metrics_error=problem,
            smoke_test=self.smoke,
            champion=self.champion,
            commands=self._approval(),
        )
        self.smoke = None
        self.state, actions = decide(self.state, seen, self.policy, now)
        for action in actions:
            self._carry_out(action)

    def _arm(self, arm: str, restarts: int) -> ArmObservation:
        digest = "two" if arm == CANDIDATE else "one"
        return ArmObservation(
            2,
            2,
            restarts=restarts,
            weight_applied=self.weights.get(arm, 0),
            mirror_applied=self.mirrors.get(arm, 0),
            digest=digest,
        )

    def _approval(self) -> tuple[Command, ...]:
        """A gate finds someone at once who opens it."""
        if self.state.phase is not Phase.AWAITING_GATE:
            return ()
        self.approvals += 1
        return (Command(f"approval-{self.approvals}", "approve"),)

    def _carry_out(self, action: Action) -> None:
        match action:
            case StartArm(arm=arm):
                self.up.add(arm)
            case StopArm(arm=arm):
                self.up.discard(arm)
            case SetWeights():
                self.weights = dict(action.weights)
                self.mirrors = dict(action.mirrors)
            case SmokeTest(arm=arm):
                self.smoke = SmokeTestResult(arm, True)
            case MoveAlias(version=version):
                self.champion = version
            case _:
                pass


class Decided:
    """R rollouts under `decide` itself: for policies that the kernel cannot take many of at once.

    Args:
        policy: The policy.
        runs: Number of rollouts R.
        watch: Whether they go on through the watch after promotion.
    """

    name = "slipway"

    def __init__(self, policy: RolloutPolicy, runs: int, *, watch: bool = False) -> None:
        self.endings = Endings(runs)
        self._planes = [SimulatedPlane(policy, watch) for _ in range(runs)]

    def weights(self, rows: Ints) -> Ints:
        """Returns the percent of traffic that the candidate has, shape [A]."""
        return np.array([self._planes[row].weight for row in rows.tolist()], dtype=np.int64)

    def look(self, rows: Ints, windows: Windows) -> None:
        """Takes the windows of the rollouts `rows` in, and decides."""
        for index, row in enumerate(rows.tolist()):
            plane = self._planes[row]
            ending = plane.look(windows.rows(np.array([index])))
            if ending is not Ending.RUNNING:
                self.endings.finish(np.array([row]), ending, windows.end)
                self.endings.step[row] = plane.step


@dataclass(frozen=True)
class Agreement:
    """How far kernel and `decide` agree on the same windows.

    Args:
        rollouts: Rollouts compared.
        decisions: Looks compared.
        differences: What differed first, a line for each rollout that did.
    """

    rollouts: int
    decisions: int
    differences: tuple[str, ...]


def check(policy: RolloutPolicy, recording: Recording, rollouts: Rollouts) -> Agreement:
    """Shows `decide` the windows that the kernel decided on, and compares every weight and every end.

    Of a rollout that was recorded in part, all that was recorded is compared.

    Args:
        policy: The policy.
        recording: What the kernel saw.
        rollouts: How its rollouts went.
    """
    differences, decisions = [], 0
    for row, looks in enumerate(recording.looks):
        plane, problem = SimulatedPlane(policy), None
        ending = Ending.RUNNING
        for weight, windows in looks:
            if plane.weight != weight or ending is not Ending.RUNNING:
                problem = f"before second {windows.end:g}: {ending.name} at {plane.weight} %, kernel at {weight} %"
                break
            ending = plane.look(windows)
            decisions += 1
        whole = len(looks) == int(rollouts.looks[row])
        expected = Ending(int(rollouts.ending[row])) if whole else Ending.RUNNING
        moved = whole and _place(looks, plane) != int(rollouts.step[row])
        if problem is None and (ending is not expected or moved):
            problem = f"at the end: {ending.name} at step {plane.step}, kernel {expected.name} at {rollouts.step[row]}"
        if problem is not None:
            differences.append(f"rollout {row}, {problem}")
    return Agreement(len(recording.looks), decisions, tuple(differences))


def _place(looks: Sequence[tuple[int, Windows]], plane: SimulatedPlane) -> int:
    return plane.step if looks else 0
