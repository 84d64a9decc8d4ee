"""What a policy needs, before it starts: requests and time per step, and a refusal where the traffic cannot feed it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from slipway.contracts.errors import RolloutError
from slipway.contracts.rollout import Guardrail, Margin, RolloutPolicy
from slipway.serving.rollout.core.hypergeometric import Floats
from slipway.serving.rollout.core.plans import Detectable, Plan, StepPlan, written_count, written_time
from slipway.serving.rollout.core.sample_size import (
    UNLUCKY,
    Split,
    Truth,
    detectable,
    growth,
    needed,
    no_evidence,
    requests_to_prove,
)

__all__ = ["Detectable", "Plan", "StepPlan", "plan", "requests_to_prove"]


@dataclass(frozen=True)
class _World:
    """What a plan assumes of the time to come."""

    policy: RolloutPolicy
    rates: Mapping[str, float]
    requests_per_second: float
    users_per_second: float | None
    expected: Mapping[str, float]
    means: Mapping[str, tuple[float, float]]
    candidates: int

    def is_known(self, guardrail: Guardrail) -> bool:
        """Returns whether enough is known of stable to plan a guardrail."""
        if guardrail.kind == "scores" or guardrail.is_similarity:
            return False
        if guardrail.is_mean:
            return guardrail.name in self.means
        return not guardrail.higher_is_better or guardrail.name in self.rates

    def per_second(self, guardrail: Guardrail) -> float | None:
        """Returns how much of what a guardrail counts comes in a second."""
        return self.users_per_second if guardrail.unit == "user" else self.requests_per_second

    def truth(self, part: Guardrail, guardrail: Guardrail) -> Truth:
        """Returns what is assumed of a part of a guardrail."""
        effect = self.expected.get(part.name, self.expected.get(guardrail.name))
        if guardrail.is_mean:
            scale = guardrail.scale
            return Truth(deviation=self.means[guardrail.name][1], difference=(effect or 0.0) / scale)
        rate = self.rates.get(part.name, self.rates.get(guardrail.name, 0.0))
        return Truth(rate, 1.0 if effect is None else effect)


@dataclass(frozen=True)
class _Need:
    """What one guardrail takes at one step: units typically and for the unlucky, and seconds (0 where not known)."""

    guardrail: Guardrail
    units: float
    unlucky: float
    per_second: float | None

    @property
    def seconds(self) -> float:
        return _seconds(self.units, self.per_second)

    @property
    def unlucky_seconds(self) -> float:
        return _seconds(self.unlucky, self.per_second)


def plan(
    policy: RolloutPolicy,
    base_rates: Mapping[str, float],
    requests_per_second: float,
    expected: Mapping[str, float] | None = None,
    *,
    means: Mapping[str, tuple[float, float]] | None = None,
    users_per_second: float | None = None,
    candidates: int = 1,
) -> Plan:
    """Returns what each step takes, and refuses a policy that can never be fed.

    Args:
        policy: The policy.
        base_rates: By guardrail, stable's rate of events: 0.15 for clicks on 15 % of requests. Where lower is better,
            a rate that is not given is 0; other guardrails without one are left out and named in the plan. Of several
            latency objectives, each has its own, by `<guardrail>@<seconds>`.
        requests_per_second: Of all arms together.
        expected: By guardrail, the odds ratio of events that the candidate is thought to have, 1 if not given; for a
            mean, the difference, 0 if not given. Where `better` is required and nothing is expected, the step lasts
            until its deadline, and the plan says what it would find.
        means: By guardrail of kind mean, mean and standard deviation of stable's values, on the scale of 0 to 1.
        users_per_second: New users of all arms together, for guardrails that count users.
        candidates: Versions that are compared with stable at once.

    Raises:
        RolloutError: A step would typically not end before its deadline, or the rollout before its own. The error
            says which guardrail, and what would feed it.
    """
    world = _World(policy, base_rates, requests_per_second, users_per_second, expected or {}, means or {}, candidates)
    planned = _plan(world)
    total = 0.0
    for index, step in enumerate(planned.steps):
        total += step.seconds
        own = policy.steps[index].deadline
        limit, spent = (own, step.seconds) if own is not None else (policy.deadline, total)
        if spent > limit or total > policy.deadline:
            raise _refusal(world, planned, index, min(limit, policy.deadline))
    return planned


def _plan(world: _World) -> Plan:
    policy = world.policy
    deciding = [guardrail for guardrail in policy.guardrails if not guardrail.dry_run]
    known = [guardrail for guardrail in deciding if world.is_known(guardrail)]
    evidence = {part.name: no_evidence(part, policy) for guardrail in known for part in guardrail.parts()}
    steps, found = [], []
    for index, step in enumerate(policy.steps):
        needs = []
        for guardrail in known:
            need, effect = _need(world, index, guardrail, evidence)
            needs.append(need)
            found.extend([] if effect is None else [effect])
        slowest = max(needs, key=lambda need: need.seconds, default=None)
        seconds = max([step.minimum_dwell, *(need.seconds for need in needs)])
        requests = [need for need in needs if need.guardrail.unit == "request"]
        requirements = {policy.requirement(index, one) for one in known if policy.applies(index, one)}
        steps.append(
            StepPlan(
                weight=step.weight,
                requirement=next((name for name in ("better", "proven") if name in requirements), "noHarm"),
                requests=max((need.units for need in requests), default=0.0),
                unlucky_requests=max((need.unlucky for need in requests), default=0.0),
                seconds=seconds,
                unlucky_seconds=max([step.minimum_dwell, *(need.unlucky_seconds for need in needs)]),
                slowest=slowest.guardrail.name if slowest and slowest.seconds > step.minimum_dwell else "",
                mirror=step.mirror,
                users=max((need.units for need in needs if need.guardrail.unit == "user"), default=0.0),
            )
        )
        if step.compares and math.isfinite(seconds):
            _let_pass(world, index, known, evidence, seconds)
    names = {guardrail.name for guardrail in known}
    return Plan(
        tuple(steps),
        world.requests_per_second,
        tuple(guardrail.name for guardrail in deciding if guardrail.name not in names),
        tuple(guardrail.name for guardrail in known if world.per_second(guardrail) is None),
        tuple(guardrail.name for guardrail in deciding if _is_clustered(policy, guardrail)),
        tuple(found),
    )


def _is_clustered(policy: RolloutPolicy, guardrail: Guardrail) -> bool:
    """Returns whether requests are counted as independent that are not: habits of users who stay with a version."""
    of_habits = guardrail.kind == "clicks" or guardrail.is_mean
    return policy.assignment == "user" and of_habits and guardrail.unit == "request"


def _let_pass(world: _World, index: int, known: list[Guardrail], evidence: dict[str, Floats], seconds: float) -> None:
    """Adds the evidence that the time at a step typically brings; copies bring none by feedback."""
    step = world.policy.steps[index]
    split = Split.at(step, world.candidates)
    for guardrail in known:
        rate = world.per_second(guardrail)
        if rate is None or not world.policy.applies(index, guardrail):
            continue
        for part in guardrail.parts():
            grown = growth(part, world.policy, split, world.truth(part, guardrail))
            evidence[part.name] = evidence[part.name] + seconds * rate * grown


def _need(
    world: _World, index: int, guardrail: Guardrail, evidence: Mapping[str, Floats]
) -> tuple[_Need, Detectable | None]:
    """Returns what a guardrail takes at a step; and what that finds, where it must get better by an effect unknown."""
    policy, step = world.policy, world.policy.steps[index]
    rate = world.per_second(guardrail)
    split, requirement = Split.at(step, world.candidates), policy.requirement(index, guardrail)
    if split.candidate == 0 or not policy.applies(index, guardrail):
        return _Need(guardrail, 0.0, 0.0, rate), None
    samples = step.minimum_samples / split.candidate
    if requirement == "noHarm":
        return _Need(guardrail, samples, samples, rate), None
    here = policy.at_step(index, guardrail)
    if requirement == "better" and guardrail.name not in world.expected:
        return _need_of_deadline(world, index, here, evidence, samples)
    units = []
    for luck in (0.0, UNLUCKY):
        parts = [
            needed(
                part,
                policy,
                split,
                world.truth(part, guardrail),
                requirement,
                start=evidence[part.name],
                luck=luck,
                candidates=world.candidates,
            )
            for part in here.parts()
        ]
        units.append(max([samples, *parts]))
    return _Need(guardrail, units[0], units[1], rate), None


def _need_of_deadline(
    world: _World, index: int, guardrail: Guardrail, evidence: Mapping[str, Floats], samples: float
) -> tuple[_Need, Detectable | None]:
    step, rate = world.policy.steps[index], world.per_second(guardrail)
    if rate is None:
        return _Need(guardrail, samples, samples, rate), None
    units = rate * (world.policy.deadline if step.deadline is None else step.deadline)
    split, truth = Split.at(step, world.candidates), world.truth(guardrail, guardrail)
    effect = detectable(
        guardrail, world.policy, split, truth, units, start=evidence[guardrail.name], candidates=world.candidates
    )
    if effect is None or samples > units:
        return _Need(guardrail, math.inf, math.inf, rate), None
    lift = None if guardrail.is_mean else effect / (1 - truth.rate + truth.rate * effect) - 1
    return _Need(guardrail, units, units, rate), Detectable(guardrail.name, index, units, guardrail.unit, effect, lift)


def _refusal(world: _World, planned: Plan, index: int, limit: float) -> RolloutError:
    step = planned.steps[index]
    name = f"guardrail {step.slowest!r}" if step.slowest else "the dwell time"
    guardrail = next((one for one in world.policy.guardrails if one.name == step.slowest), None)
    of_users = guardrail is not None and guardrail.unit == "user"
    units, unit, rate = (
        (step.users, "users", world.users_per_second or 0.0)
        if of_users
        else (step.requests, "requests", planned.requests_per_second)
    )
    share = f"{step.weight} %" if not step.mirror else f"copies of {step.mirror} %"
    if math.isfinite(units):
        need = (
            f"would need {written_count(units)} {unit} at {share}, {written_time(step.seconds)} "
            f"at {rate:.3g} {unit}/s; the deadline leaves {written_time(limit)}"
        )
    elif step.requirement == "better":
        need = f"can never be shown to get better at {share}: by the deadline, not even a large improvement would be"
    else:
        need = f"can never be proven at {share}: its events tell nothing at these rates"
    remedies = []
    if math.isfinite(step.seconds):
        remedies.append(f"a deadline of {written_time(1.2 * step.seconds)}")
        remedies.append(f"{math.ceil(1.1 * units / limit):,} {unit}/s" if limit > 0 else "more traffic")
    margin = _margin_that_fits(world, planned, index, limit)
    if margin is not None:
        remedies.append(margin)
    if not remedies:
        remedies.append("an absolute margin beside the odds ratio, since hardly any event happens in either arm")
    return RolloutError(
        f"this policy cannot be fed: {name} {need}",
        where=f"rollout step {index + 1}",
        remedy=f"Any of these would feed it: {'; '.join(remedies)}",
    )


def _margin_that_fits(world: _World, planned: Plan, index: int, limit: float) -> str | None:
    """Returns the narrowest wider odds-ratio margin of the slowest guardrail that the traffic feeds, in words."""
    policy, name = world.policy, planned.steps[index].slowest
    guardrail = next((g for g in policy.guardrails if g.name == name), None)
    if guardrail is None or planned.steps[index].requirement != "proven":
        return None
    if guardrail.margin.odds_ratio is None or name in policy.steps[index].margins:
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
        steps = _plan(replace(world, policy=changed)).steps
        if steps[index].seconds <= limit and steps[index].slowest in ("", name):
            return f"a margin of {ratio} on {name}"
    return None


def _seconds(units: float, rate: float | None) -> float:
    """Returns how long so many units take; none where it is not known how many come."""
    if units <= 0 or rate is None:
        return 0.0
    return units / rate if rate > 0 else math.inf
