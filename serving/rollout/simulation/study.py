"""A study of one policy: which cells it takes, and what peers are calibrated to beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from slipway.contracts.errors import UsageError
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.cells import METHODS, Cell, CellSpec
from slipway.serving.rollout.simulation.effects import NO_EFFECT, Effect
from slipway.serving.rollout.simulation.grid import LEAST_RATE, Calibration, Grid
from slipway.serving.rollout.simulation.kernel import reason_against_kernel
from slipway.serving.rollout.simulation.traffic import EventRate, TrafficModel, scenario

RATES = (1.0, 10.0, 100.0, 1000.0)
_LONG_WINDOW, _SHORT_WINDOW, _BUSY = 60.0, 15.0, 10.0
_MOST_LOOKS = 5760
_NOT_SIMULATED = frozenset({"mean", "ndcg", "auc", "scores", "agreement", "rank_correlation", "score_difference"})


@dataclass(frozen=True)
class Study:
    """What is simulated.

    Args:
        policy: The policy.
        rates: Stable's rates of events, by guardrail.
        effects: True effects.
        requests_per_second: Amounts of traffic.
        traffic: Names of kinds of traffic.
        runs: Rollouts a cell.
        seed: Of everything.
        window: Seconds between two looks; None takes 15, and 60 below 10 requests/s, and more where a rollout may
            take longer than a day.
        users: Number of users in the kinds of traffic that have some; None takes theirs.
        healthy_for: Seconds of traffic before the candidate does anything differently.
        feedback_wait: Seconds until events that come by feedback are counted.
        checked: Rollouts a cell that go through `decide` too.
        watch: Go on through the policy's watch after promotion.
        compare: Peers as their documentation shows them, too.
        calibrate: Peers set so that they take back no more equal candidates than the policy does, too.
    """

    policy: RolloutPolicy
    rates: dict[str, EventRate]
    effects: Sequence[Effect]
    requests_per_second: Sequence[float] = RATES
    traffic: Sequence[str] = ("constant",)
    runs: int = 200
    seed: int = 1
    window: float | None = None
    users: int | None = None
    healthy_for: float = 0.0
    feedback_wait: float = 0.0
    checked: int = 2
    watch: bool = False
    compare: bool = False
    calibrate: bool = False


@dataclass(frozen=True)
class Findings:
    """What a study gave.

    Args:
        cells: One a method, kind of traffic, amount of traffic and effect.
        calibrations: What peers were calibrated to.
    """

    cells: list[Cell]
    calibrations: list[Calibration] = field(default_factory=list)


def check_study(study: Study) -> None:
    """Refuses what cannot be simulated.

    Raises:
        UsageError: An effect is on no guardrail of the policy, or the policy guards what no count shows.
    """
    if study.watch and study.policy.watch.duration == 0:
        raise UsageError(
            "the policy has no watch after promotion", remedy="Give it one, with --set rollout.watch.duration=1h."
        )
    names = {guardrail.name: guardrail.kind for guardrail in study.policy.guardrails}
    for effect in study.effects:
        if effect.guardrail and effect.guardrail not in names:
            raise UsageError(
                f"the policy has no guardrail {effect.guardrail!r}", remedy=f"It has: {', '.join(sorted(names))}."
            )
    for guardrail in study.policy.guardrails:
        if guardrail.kind in _NOT_SIMULATED or len(guardrail.parts()) > 1:
            raise UsageError(
                f"the guardrail {guardrail.name!r} cannot be simulated: it does not count one kind of events",
                remedy="Leave it out for the simulation, with --set rollout.guardrails=[...].",
            )


def notes(study: Study) -> list[str]:
    """Returns what a reader of the results must know about how they were made."""
    found = []
    reason = reason_against_kernel(study.policy)
    if reason is not None:
        found.append(f"The policy has {reason}: each rollout goes through decide() by itself, which takes longer.")
    if study.watch:
        found.append("Each rollout goes through decide() by itself, to the end of the watch, which takes longer.")
    if any(guardrail.unit == "user" for guardrail in study.policy.guardrails):
        found.append("Users are simulated as requests: each user once.")
    if any(guardrail.is_feedback for guardrail in study.policy.guardrails) and study.feedback_wait == 0:
        found.append("Feedback is simulated without its waiting time.")
    return found


def specs_of(study: Study, method: str = "slipway") -> list[CellSpec]:
    """Returns the cells of one method, as documented or under the policy."""
    found = []
    for name in study.traffic:
        for amount in study.requests_per_second:
            usual = _SHORT_WINDOW if amount >= _BUSY else _LONG_WINDOW
            window = study.window or max(usual, study.policy.deadline / _MOST_LOOKS)
            plain = TrafficModel(
                amount, window, study.rates, healthy_for=study.healthy_for, feedback_wait=study.feedback_wait
            )
            model = scenario(name, plain)
            if study.users is not None and model.users:
                model = replace(model, users=study.users)
            checked = min(study.checked, study.runs) if method == "slipway" else 0
            found += [
                CellSpec(study.policy, name, model, effect, study.runs, study.seed, method, None, checked, study.watch)
                for effect in study.effects
            ]
    return found


def conduct(study: Study, grid: Grid, tell: Callable[[str], None] | None = None) -> Findings:
    """Runs a study.

    Args:
        study: What is simulated.
        grid: Runs the cells.
        tell: Is told what begins.
    """
    check_study(study)
    say = tell or _nothing
    say("slipway")
    cells = grid.run(specs_of(study))
    peers = [method for method in METHODS if method != "slipway"]
    if study.compare:
        say("peers as documented")
        cells += grid.run([spec for method in peers for spec in specs_of(study, method)])
    if not study.calibrate:
        return Findings(cells)
    say("calibrating")
    calibrations = grid.calibrate(_wanted(study, cells, peers))
    settings = {(found.method, found.requests_per_second): found.setting for found in calibrations}
    say("peers, calibrated")
    cells += grid.run(
        [
            replace(spec, setting=settings[method, spec.traffic.requests_per_second])
            for method in peers
            for spec in specs_of(study, method)
        ]
    )
    return Findings(cells, calibrations)


def _wanted(study: Study, cells: list[Cell], peers: list[str]) -> list[tuple[CellSpec, float]]:
    """Returns what to calibrate: on the first kind of traffic, as a user would, for each amount of it."""
    first = replace(study, traffic=study.traffic[:1], effects=(NO_EFFECT,))
    own = {
        (cell.traffic, cell.requests_per_second): cell.taken_back
        for cell in cells
        if cell.method == "slipway" and cell.effect == str(NO_EFFECT)
    }
    return [
        (spec, max(own.get((spec.traffic_name, spec.traffic.requests_per_second), 0.0), LEAST_RATE))
        for method in peers
        for spec in specs_of(first, method)
    ]


def _nothing(_: str) -> None:
    return None
