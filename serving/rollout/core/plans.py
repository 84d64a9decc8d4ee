"""What a plan says: each step with its traffic and time, and what an experiment would find."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slipway.contracts.durations import describe_seconds


@dataclass(frozen=True)
class StepPlan:
    """What one step takes.

    Args:
        weight: Percent for the candidate.
        requirement: The strictest that a guardrail has here.
        requests: Requests that come in until every guardrail that counts them is fulfilled, typically; infinite if
            never. Copies for a mirrored step come on top.
        unlucky_requests: The same, for the unluckiest tenth of rollouts.
        seconds: Time at the step: until every guardrail is fulfilled, but at least the shortest dwell.
        slowest: The guardrail that takes longest, or "" where the dwell does.
        mirror: Percent of requests that the candidate gets copies of.
        users: Users until every guardrail that counts users is fulfilled, typically.
    """

    weight: int
    requirement: str
    requests: float
    unlucky_requests: float
    seconds: float
    unlucky_seconds: float
    slowest: str
    mirror: int = 0
    users: float = 0.0


@dataclass(frozen=True)
class Detectable:
    """The smallest improvement that a step finds by its deadline, with a power of 80 %.

    Args:
        guardrail: Which one must get better.
        step: Index of the step.
        units: Requests or users that come by then, as `unit` says.
        effect: Odds ratio of events, or difference of means in the unit of the values.
        lift: The odds ratio as a relative change of stable's rate; None for a mean.
    """

    guardrail: str
    step: int
    units: float
    unit: str
    effect: float
    lift: float | None

    def line(self) -> str:
        """Returns it as a line to print."""
        effect = f"a difference of {self.effect:.3g}" if self.lift is None else f"a lift of {100 * self.lift:+.3g} %"
        return (
            f"{self.guardrail} must get better at step {self.step + 1}: with {written_count(self.units)} {self.unit}s "
            f"by its deadline, {effect} is found in 8 of 10 rollouts, a smaller one more rarely"
        )


@dataclass(frozen=True)
class Plan:
    """The steps of a rollout with what they take at a rate of requests.

    `unplanned` names guardrails of which stable's rate (or spread, or histogram) is not known; `untimed` those that
    count users, where it is not known how many users come; `clustered` those that count requests by what users do,
    while users stay with a version.
    """

    steps: tuple[StepPlan, ...]
    requests_per_second: float
    unplanned: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()
    clustered: tuple[str, ...] = ()
    detectable: tuple[Detectable, ...] = ()

    @property
    def seconds(self) -> float:
        """Typical time from the first traffic to promotion."""
        return sum(step.seconds for step in self.steps)

    def lines(self) -> list[str]:
        """Returns the plan as lines to print."""
        lines = [f"{'weight':>7} {'requires':>9} {'requests':>10} {'time':>8} {'unlucky':>8}  slowest"]
        for step in self.steps:
            share = f"{step.weight:>6}%" if not step.mirror else f"{f'+{step.mirror}':>6}%"
            users = f" and {written_count(step.users)} users" if step.users else ""
            lines.append(
                f"{share} {step.requirement:>9} {written_count(step.requests):>10} {written_time(step.seconds):>8} "
                f"{written_time(step.unlucky_seconds):>8}  {step.slowest or 'dwell time'}{users}"
            )
        lines.append(
            f"at {self.requests_per_second:.3g} requests/s: {written_time(self.seconds)} in all "
            "if it is just as good; a better version is proven sooner"
        )
        lines.extend(found.line() for found in self.detectable)
        if self.untimed:
            lines.append(f"counts users, and how many come is not known: {', '.join(self.untimed)}")
        if self.clustered:
            names = ", ".join(self.clustered)
            lines.append(
                f"users stay with a version, and {names} counts their requests: set `unit: user`, or errors rise"
            )
        if self.unplanned:
            lines.append(f"not planned, since stable's rate is not known: {', '.join(self.unplanned)}")
        return lines


def written_count(units: float) -> str:
    """Returns a number of requests or users for people; `never` where it is infinite."""
    return f"{math.ceil(units):,}" if math.isfinite(units) else "never"


def written_time(seconds: float) -> str:
    """Returns a time for people; `never` where it is infinite."""
    return describe_seconds(seconds) if math.isfinite(seconds) else "never"
