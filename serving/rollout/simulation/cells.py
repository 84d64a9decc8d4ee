"""One cell of a simulation: a method, a kind of traffic, a true effect, and how many rollouts of it ended how."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

import numpy as np

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.effects import Effect, is_harmful, odds_ratio
from slipway.serving.rollout.simulation.endings import Ending, Method
from slipway.serving.rollout.simulation.kernel import Kernel, reason_against_kernel
from slipway.serving.rollout.simulation.peers.argo_rollouts import ArgoAnalysis, ArgoRollouts
from slipway.serving.rollout.simulation.peers.checks import Check, documented_checks
from slipway.serving.rollout.simulation.peers.flagger import Flagger, FlaggerAnalysis
from slipway.serving.rollout.simulation.peers.z_test import FIVE_PERCENT, ZTest
from slipway.serving.rollout.simulation.replay import Decided, check
from slipway.serving.rollout.simulation.rollouts import Recording, Rollouts, run
from slipway.serving.rollout.simulation.traffic import TrafficModel
from slipway.serving.rollout.simulation.windows import Traffic

METHODS = ("slipway", "flagger", "argo-rollouts", "z-test")
CHUNK = 2000
_SLACK = 3600.0


@dataclass(frozen=True)
class CellSpec:
    """What one cell simulates.

    Args:
        policy: The policy; peers take from it what is counted, the z-test its steps too.
        traffic_name: Name of the kind of traffic.
        traffic: The kind of traffic.
        effect: What the candidate does differently.
        runs: Number of rollouts.
        seed: Of everything.
        method: One of METHODS.
        setting: What a peer was calibrated to; None for what its documentation shows.
        checked: How many of the rollouts are decided by `decide` too.
        watch: Whether the policy's rollouts go on through the watch after promotion; by `decide` alone.
    """

    policy: RolloutPolicy
    traffic_name: str
    traffic: TrafficModel
    effect: Effect
    runs: int
    seed: int
    method: str = "slipway"
    setting: float | None = None
    checked: int = 0
    watch: bool = False

    def chunks(self) -> list[tuple[CellSpec, int]]:
        """Returns the parts that are run one at a time, each with its number."""
        sizes = [CHUNK] * (self.runs // CHUNK) + ([self.runs % CHUNK] if self.runs % CHUNK else [])
        checked = [min(self.checked, sizes[0]), *[0] * (len(sizes) - 1)]
        return [
            (replace(self, runs=size, checked=share), number)
            for number, (size, share) in enumerate(zip(sizes, checked, strict=True))
        ]


@dataclass(frozen=True)
class Part:
    """What one chunk of a cell gave."""

    rollouts: Rollouts
    checked: int = 0
    decisions: int = 0
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """How the rollouts of one cell ended.

    Args:
        method: Who decided.
        calibrated: Whether a peer was calibrated, or is as documented.
        traffic: Kind of traffic.
        requests_per_second: Of both arms together.
        effect: What the candidate does differently.
        odds_ratio: The same, as an odds ratio of events; None without an effect.
        harmful: Whether the candidate is beyond every margin, so that it has to go back.
        rollouts: How many.
        taken_back: Share taken back by evidence: false where there is no harm.
        promoted: Share promoted: missed where there is harm.
        not_in_time: Share taken back at a deadline.
        other: Share that ended otherwise: no data, a wrong split, a fault, or held.
        too_early: Share taken back before the candidate did anything differently; part of `taken_back`.
        seconds_to_detection: Median over the others taken back, from the first traffic or the first difference on.
        slow_seconds_to_detection: The slowest tenth takes longer.
        seconds_to_promotion: Median over those promoted.
        bad_requests: Mean over all rollouts of the expected requests that were worse off, until the end.
        checked: Rollouts that `decide` decided too, on the same windows.
        decisions: Looks at which it was compared.
        differences: Rollouts in which it decided otherwise.
    """

    method: str
    calibrated: bool
    traffic: str
    requests_per_second: float
    effect: str
    odds_ratio: float | None
    harmful: bool
    rollouts: int
    taken_back: float
    promoted: float
    not_in_time: float
    other: float
    too_early: float
    seconds_to_detection: float | None
    slow_seconds_to_detection: float | None
    seconds_to_promotion: float | None
    bad_requests: float
    checked: int = 0
    decisions: int = 0
    differences: tuple[str, ...] = field(default=())


def simulate_chunk(task: tuple[CellSpec, int]) -> Part:
    """Runs one chunk of a cell."""
    spec, number = task
    method = _method(spec, number)
    traffic = Traffic(spec.traffic, spec.effect, spec.runs, _seed(spec, number))
    checked = spec.checked if isinstance(method, Kernel) else 0
    recording = Recording.of(checked) if checked else None
    horizon = spec.policy.deadline + (spec.policy.watch.duration if spec.watch else 0.0) + _SLACK
    rollouts = run(method, traffic, horizon, recording=recording)
    if recording is None:
        return Part(rollouts)
    agreement = check(spec.policy, recording, rollouts)
    return Part(rollouts, agreement.rollouts, agreement.decisions, agreement.differences)


def summarise(spec: CellSpec, parts: list[Part]) -> Cell:
    """Returns what all chunks of a cell gave together."""
    rollouts = Rollouts.joined([part.rollouts for part in parts])
    rate = spec.traffic.rates[spec.effect.guardrail].rate if spec.effect.guardrail else 0.5
    begin = spec.traffic.healthy_for
    early = (rollouts.ending == Ending.HARM) & (begin > 0) & (rollouts.seconds <= begin)
    back, on = (rollouts.ending == Ending.HARM) & ~early, rollouts.ending == Ending.PROMOTED
    return Cell(
        method=spec.method,
        calibrated=spec.setting is not None,
        traffic=spec.traffic_name,
        requests_per_second=spec.traffic.requests_per_second,
        effect=str(spec.effect),
        odds_ratio=odds_ratio(spec.effect, rate) if spec.effect.guardrail else None,
        harmful=is_harmful(spec.effect, spec.policy, rate),
        rollouts=len(rollouts.ending),
        taken_back=rollouts.share(Ending.HARM),
        promoted=rollouts.share(Ending.PROMOTED),
        not_in_time=rollouts.share(Ending.UNPROVEN),
        other=rollouts.share(Ending.NO_DATA, Ending.FAULT, Ending.HELD, Ending.RUNNING),
        too_early=float(early.mean()),
        seconds_to_detection=float(np.median(rollouts.seconds[back]) - begin) if back.any() else None,
        slow_seconds_to_detection=float(np.quantile(rollouts.seconds[back], 0.9) - begin) if back.any() else None,
        seconds_to_promotion=float(np.median(rollouts.seconds[on])) if on.any() else None,
        bad_requests=float(rollouts.exposed.mean()),
        checked=sum(part.checked for part in parts),
        decisions=sum(part.decisions for part in parts),
        differences=tuple(line for part in parts for line in part.differences),
    )


def _seed(spec: CellSpec, number: int) -> np.random.SeedSequence:
    """The same for every method, so that all of them meet the same load, base rates and faults."""
    place = f"{spec.traffic_name}/{spec.traffic.requests_per_second}/{spec.effect}"
    return np.random.SeedSequence([spec.seed, zlib.crc32(place.encode()), number])


def _method(spec: CellSpec, number: int) -> Method:
    seed = spec.seed * 1000 + number
    match spec.method:
        case "flagger":
            flagger = FlaggerAnalysis(documented_checks(spec.policy))
            if spec.setting is not None:
                requests = spec.traffic.requests_per_second * flagger.interval * flagger.step_weight / 100
                flagger = replace(flagger, checks=calibrated_checks(spec, requests, spec.setting))
            return Flagger(flagger, spec.runs, seed)
        case "argo-rollouts":
            argo = ArgoAnalysis(tuple(replace(item, limit=0.05) for item in documented_checks(spec.policy)[:1]))
            if spec.setting is not None:
                weight = argo.weights[argo.starting_step] / 100
                requests = spec.traffic.requests_per_second * spec.traffic.window * weight
                argo = replace(argo, checks=calibrated_checks(spec, requests, spec.setting))
            return ArgoRollouts(argo, spec.runs, seed)
        case "z-test":
            return ZTest(spec.policy, spec.runs, FIVE_PERCENT if spec.setting is None else spec.setting)
        case _ if reason_against_kernel(spec.policy) is None and not spec.watch:
            return Kernel(spec.policy, spec.runs)
        case _:
            return Decided(spec.policy, spec.runs, watch=spec.watch)


def calibrated_checks(spec: CellSpec, requests: float, setting: float) -> tuple[Check, ...]:
    """Returns a limit on every rate that the policy guards, `setting` standard errors away from stable's true rate.

    That is more than a user of a fixed limit can know: the true rate, and its scatter at the smallest weight.
    """
    checks = []
    for guardrail in spec.policy.guardrails:
        if guardrail.dry_run:
            continue
        rate = spec.traffic.rates[guardrail.name].rate
        away = setting * float(np.sqrt(rate * (1 - rate) / max(requests, 1.0)))
        limit = rate - away if guardrail.higher_is_better else rate + away
        checks.append(Check(guardrail.name, limit, guardrail.higher_is_better))
    return tuple(checks)
