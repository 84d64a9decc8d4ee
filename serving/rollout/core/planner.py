"""What a policy needs, before it starts: requests and time per step, and a refusal where the traffic cannot feed it.

The evidence that typical data would give is computed by the same functions that judge real data: on counts equal to
their expectation, log-sums grow in proportion to the requests, and what is left is to find where they cross.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from slipway.contracts.durations import describe_seconds
from slipway.contracts.errors import RolloutError
from slipway.contracts.rollout import Guardrail, Margin, RolloutPolicy, Step
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.evidence import log_evidence_below
from slipway.serving.rollout.core.hypergeometric import Floats, log_likelihoods
from slipway.serving.rollout.core.odds_grid import log_margins, odds_grid
from slipway.serving.rollout.core.proportions import difference_interval

_LIMIT = 1e12
_UNLUCKY = 1.2815515655446004
"""The 90 % quantile of the normal law: nine plans in ten take no longer than the `unlucky` figure."""


@dataclass(frozen=True)
class StepPlan:
    """What one step takes.

    Args:
        weight: Percent for the candidate.
        requirement: The strictest that a guardrail has here.
        requests: Requests of both arms until every guardrail is fulfilled, typically; infinite if never.
        unlucky_requests: The same, for the unluckiest tenth of rollouts.
        seconds: Time at the step: the requests, but at least the shortest dwell.
        slowest: The guardrail that takes longest, or "" where the dwell does.
    """

    weight: int
    requirement: str
    requests: float
    unlucky_requests: float
    seconds: float
    unlucky_seconds: float
    slowest: str


@dataclass(frozen=True)
class Plan:
    """The steps of a rollout with what they take at a rate of requests."""

    steps: tuple[StepPlan, ...]
    requests_per_second: float
    unplanned: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Typical time from the first traffic to promotion."""
        return sum(step.seconds for step in self.steps)

    def lines(self) -> list[str]:
        """Returns the plan as lines to print."""
        lines = [f"{'weight':>7} {'requires':>9} {'requests':>10} {'time':>8} {'unlucky':>8}  slowest"]
        for step in self.steps:
            lines.append(
                f"{step.weight:>6}% {step.requirement:>9} {_count(step.requests):>10} "
                f"{_time(step.seconds):>8} {_time(step.unlucky_seconds):>8}  {step.slowest or 'dwell time'}"
            )
        lines.append(
            f"at {self.requests_per_second:.3g} requests/s: {_time(self.seconds)} in all "
            "if it is just as good; a better version is proven sooner"
        )
        if self.unplanned:
            lines.append(f"not planned, since stable's rate is not known: {', '.join(self.unplanned)}")
        return lines


def plan(
    policy: RolloutPolicy,
    base_rates: Mapping[str, float],
    requests_per_second: float,
    expected: Mapping[str, float] | None = None,
) -> Plan:
    """Returns what each step takes, and refuses a policy that can never be fed.

    Args:
        policy: The policy.
        base_rates: By guardrail, stable's rate of events: 0.15 for clicks on 15 % of requests. Where lower is better,
            a rate that is not given is 0; other guardrails without one are left out and named in the plan.
        requests_per_second: Of both arms together.
        expected: By guardrail, the odds ratio of events that the candidate is thought to have; 1 if not given.

    Raises:
        RolloutError: A step would typically not end before its deadline, or the rollout before its own. The error
            says which guardrail, and what would feed it.
    """
    planned = _plan(policy, base_rates, requests_per_second, expected or {})
    total = 0.0
    for index, step in enumerate(planned.steps):
        total += step.seconds
        own = policy.steps[index].deadline
        limit, spent = (own, step.seconds) if own is not None else (policy.deadline, total)
        if spent > limit or total > policy.deadline:
            raise _refusal(policy, planned, index, min(limit, policy.deadline), base_rates, expected or {})
    return planned


def requests_to_prove(
    guardrail: Guardrail,
    policy: RolloutPolicy,
    weight: int,
    base_rate: float,
    odds_ratio: float = 1.0,
    *,
    head_start: Floats | None = None,
    unlucky: bool = False,
) -> float:
    """Returns the requests of both arms until a guardrail is proven at one weight; infinite if never.

    Args:
        guardrail: The guardrail.
        policy: For the level.
        weight: Percent for the candidate, between 1 and 99.
        base_rate: Stable's rate of events.
        odds_ratio: The candidate's true odds ratio of events.
        head_start: Log-sums that earlier steps have brought, shape [grid].
        unlucky: For the unluckiest tenth instead of the typical case.
    """
    level = Levels.of(policy).proof(guardrail)
    z = _UNLUCKY if unlucky else 0.0
    ways = []
    if guardrail.margin.odds_ratio is not None:
        grid = odds_grid(policy, guardrail).points
        margin = log_margins(guardrail)[0] or 0.0
        growth, variance = _growth(policy, guardrail, weight, base_rate, odds_ratio)
        start = np.zeros(len(grid)) if head_start is None else head_start

        def ratio_is_proven(requests: float) -> bool:
            sums = start + requests * growth + z * math.sqrt(requests * variance) * grid
            return log_evidence_below(sums, grid, margin) >= math.log(1 / level)

        ways.append(_first(ratio_is_proven))
    absolute = guardrail.margin.absolute
    if absolute is not None:
        stable, candidate = _bad_rates(guardrail, base_rate, odds_ratio)

        def difference_is_proven(requests: float) -> bool:
            n_c, n_s = round(requests * weight / 100), round(requests * (100 - weight) / 100)
            spread = math.sqrt(n_c * candidate * (1 - candidate)) if n_c else 0.0
            bad_c = min(n_c, round(n_c * candidate + z * spread))
            return difference_interval(bad_c, n_c, round(n_s * stable), n_s, level)[1] <= absolute

        ways.append(_first(difference_is_proven))
    return min(ways)


def _plan(policy: RolloutPolicy, base_rates: Mapping[str, float], rate: float, expected: Mapping[str, float]) -> Plan:
    deciding = [guardrail for guardrail in policy.guardrails if not guardrail.dry_run]
    known = [g for g in deciding if g.name in base_rates or not g.higher_is_better]
    evidence = {g.name: np.zeros(len(odds_grid(policy, g).points)) for g in known}
    steps = []
    for index, step in enumerate(policy.steps):
        typical = {g.name: _needed(policy, index, g, base_rates, expected, evidence[g.name], False) for g in known}
        unlucky = {g.name: _needed(policy, index, g, base_rates, expected, evidence[g.name], True) for g in known}
        slowest = max(typical, key=lambda name: typical[name], default="")
        requests = max(typical.values(), default=0.0)
        seconds = max(step.minimum_dwell, _seconds(requests, rate))
        requirements = {policy.requirement(index, guardrail) for guardrail in known}
        steps.append(
            StepPlan(
                weight=step.weight,
                requirement="proven" if "proven" in requirements else "noHarm",
                requests=requests,
                unlucky_requests=max(unlucky.values(), default=0.0),
                seconds=seconds,
                unlucky_seconds=max(step.minimum_dwell, _seconds(max(unlucky.values(), default=0.0), rate)),
                slowest=slowest if _seconds(requests, rate) > step.minimum_dwell else "",
            )
        )
        if 0 < step.weight < 100 and math.isfinite(seconds):
            for g in known:
                growth, _ = _growth(policy, g, step.weight, base_rates.get(g.name, 0.0), expected.get(g.name, 1.0))
                evidence[g.name] = evidence[g.name] + seconds * rate * growth
    names = {guardrail.name for guardrail in known}
    return Plan(tuple(steps), rate, tuple(g.name for g in deciding if g.name not in names))


def _needed(
    policy: RolloutPolicy,
    index: int,
    guardrail: Guardrail,
    base_rates: Mapping[str, float],
    expected: Mapping[str, float],
    evidence: Floats,
    unlucky: bool,
) -> float:
    step: Step = policy.steps[index]
    if step.weight == 0:
        return 0.0
    samples = step.minimum_samples * 100 / step.weight
    if policy.requirement(index, guardrail) == "noHarm":
        return samples
    base, ratio = base_rates.get(guardrail.name, 0.0), expected.get(guardrail.name, 1.0)
    proof = requests_to_prove(guardrail, policy, step.weight, base, ratio, head_start=evidence, unlucky=unlucky)
    return max(samples, proof)


def _bad_rates(guardrail: Guardrail, base_rate: float, odds_ratio: float) -> tuple[float, float]:
    """Returns the rates of bad events of stable and candidate."""
    stable, ratio = (1 - base_rate, 1 / odds_ratio) if guardrail.higher_is_better else (base_rate, odds_ratio)
    return stable, stable * ratio / (1 - stable + stable * ratio)


def _growth(
    policy: RolloutPolicy, guardrail: Guardrail, weight: int, base_rate: float, odds_ratio: float
) -> tuple[Floats, float]:
    """Returns, per request, the typical growth of the log-sums, shape [grid], and the variance of the bad events."""
    grid = odds_grid(policy, guardrail).points
    stable, candidate = _bad_rates(guardrail, base_rate, odds_ratio)
    share = weight / 100
    bad = share * candidate + (1 - share) * stable
    if not 0 < bad < 1:
        return np.zeros(len(grid)), 0.0
    size = max(20_000, math.ceil(400 / min(bad, 1 - bad)))
    n_c = round(size * share)
    n_s = size - n_c
    k = round(n_c * candidate + n_s * stable)
    # The candidate's mean given k; k itself is rounded, and the difference falls on the arms by their rates.
    x = n_c * candidate + (k - n_c * candidate - n_s * stable) * share
    sums = log_likelihoods(x, n_c, n_s, k, grid)
    variances = (n_c * candidate * (1 - candidate), n_s * stable * (1 - stable))
    variance = 1 / sum(1 / max(value, 1e-12) for value in variances)
    return (sums - sums[int(np.searchsorted(grid, 0.0))]) / size, variance / size


def _first(holds: Callable[[float], bool]) -> float:
    """Returns the smallest number of requests, to one in a hundred, at which `holds`; infinite if it never does."""
    high = 16.0
    while not holds(high):
        high *= 2
        if high > _LIMIT:
            return math.inf
    low = high / 2
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return math.ceil(high)


def _refusal(
    policy: RolloutPolicy,
    planned: Plan,
    index: int,
    limit: float,
    base_rates: Mapping[str, float],
    expected: Mapping[str, float],
) -> RolloutError:
    step = planned.steps[index]
    name = f"guardrail {step.slowest!r}" if step.slowest else "the dwell time"
    need = (
        f"would need {_count(step.requests)} requests at {step.weight} %, {_time(step.seconds)} at "
        f"{planned.requests_per_second:.3g} requests/s; the deadline leaves {_time(limit)}"
        if math.isfinite(step.requests)
        else f"can never be proven at {step.weight} %: its events tell nothing at these rates"
    )
    what = f"this policy cannot be fed: {name} {need}"
    remedies = []
    if math.isfinite(step.seconds):
        remedies.append(f"a deadline of {_time(1.2 * step.seconds)}")
        remedies.append(f"{math.ceil(1.1 * step.requests / limit):,} requests/s" if limit > 0 else "more traffic")
    margin = _margin_that_fits(policy, planned, index, limit, base_rates, expected)
    if margin is not None:
        remedies.append(margin)
    if not remedies:
        remedies.append("an absolute margin beside the odds ratio, since hardly any event happens in either arm")
    return RolloutError(
        what, where=f"rollout step {index + 1}", remedy=f"Any of these would feed it: {'; '.join(remedies)}"
    )


def _margin_that_fits(
    policy: RolloutPolicy,
    planned: Plan,
    index: int,
    limit: float,
    base_rates: Mapping[str, float],
    expected: Mapping[str, float],
) -> str | None:
    """Returns the narrowest wider odds-ratio margin of the slowest guardrail that the traffic feeds, in words."""
    name = planned.steps[index].slowest
    guardrail = next((g for g in policy.guardrails if g.name == name), None)
    if guardrail is None or guardrail.margin.odds_ratio is None or planned.steps[index].requirement != "proven":
        return None
    start = abs(math.log(guardrail.margin.odds_ratio))
    sign = -1 if guardrail.higher_is_better else 1
    for factor in (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0):
        ratio = round(math.exp(sign * start * factor), 2)
        wider = guardrail.model_copy(
            update={"margin": Margin(odds_ratio=ratio, absolute=guardrail.margin.absolute), "harm_from": None}
        )
        changed = policy.model_copy(
            update={"guardrails": tuple(wider if g.name == name else g for g in policy.guardrails)}
        )
        steps = _plan(changed, base_rates, planned.requests_per_second, expected).steps
        if steps[index].seconds <= limit and steps[index].slowest in ("", name):
            return f"a margin of {ratio} on {name}"
    return None


def _seconds(requests: float, rate: float) -> float:
    if requests <= 0:
        return 0.0
    return requests / rate if rate > 0 else math.inf


def _count(requests: float) -> str:
    return f"{math.ceil(requests):,}" if math.isfinite(requests) else "never"


def _time(seconds: float) -> str:
    return describe_seconds(seconds) if math.isfinite(seconds) else "never"
