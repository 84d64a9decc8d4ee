"""Traffic models: how load and rates of events move while a rollout goes on, and how readings of them fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from slipway.contracts.errors import UsageError
from slipway.contracts.rollout import RolloutPolicy

BASE_RATES = {"errors": 0.005, "latency": 0.05, "fallbacks": 0.01, "empty": 0.005, "clicks": 0.15, "counters": 0.05}
"""Stable's rates of events by kind of guardrail, where the user does not say better."""

DAY = 86400.0
_AT_THE_GATEWAY = frozenset({"errors", "latency"})


@dataclass(frozen=True)
class EventRate:
    """Stable's rate of one kind of events.

    Args:
        rate: Events per request.
        kind: Kind of the guardrail that counts them.
        good: Whether an event is a good one, such as a click.
        by_feedback: Whether events come after the answer, by feedback.
    """

    rate: float
    kind: str = "errors"
    good: bool = False
    by_feedback: bool = False

    @property
    def at_the_gateway(self) -> bool:
        """True where a replica's restart leaves the counters alone."""
        return self.kind in _AT_THE_GATEWAY


@dataclass(frozen=True)
class TrafficModel:
    """One kind of traffic. All that is not said is constant and in order.

    Args:
        requests_per_second: Of both arms together, on average.
        window: Seconds between two looks; each window is counted by itself.
        rates: Stable's rates of events, by guardrail.
        day: Amplitude of load and of the odds of events over a day: 0.5 swings both between half and one and a half.
        burstiness: Squared coefficient of variation of the load from window to window, beyond Poisson's.
        drift: Standard deviation of the random walk of the log-odds of events, per square root of an hour.
        bad_minutes: Minutes an hour in which the odds of every bad event are ten times as high, in both arms.
        scrape_gaps: Chance that a window cannot be read; its counts come with the next one.
        counter_resets: Times an hour that the counters of an arm start at 0 again, losing what was not read.
        restarts: Times an hour that a replica of an arm restarts: 2 % of the arm's requests in that window fail, and
            its own counters start at 0 again.
        users: Number of users; 0 takes every request for one of a new user.
        spread: Each user has a rate of events of their own, beta-distributed round the base rate; the variance of
            these rates as a share of the largest possible, between 0 and 1.
        sticky: A user stays with an arm; else each request is drawn anew.
        healthy_for: Seconds of traffic before the candidate does anything differently.
        feedback_wait: Seconds until the events of a window that come by feedback, such as clicks, are counted: for both
            arms alike, and in the window of their requests. Rounded to whole windows.
    """

    requests_per_second: float = 100.0
    window: float = 15.0
    rates: Mapping[str, EventRate] = field(default_factory=dict)
    day: float = 0.0
    burstiness: float = 0.0
    drift: float = 0.0
    bad_minutes: float = 0.0
    scrape_gaps: float = 0.0
    counter_resets: float = 0.0
    restarts: float = 0.0
    users: int = 0
    spread: float = 0.0
    sticky: bool = False
    healthy_for: float = 0.0
    feedback_wait: float = 0.0

    def looks_late(self, name: str) -> int:
        """Returns by how many looks the counts of a guardrail come after those of the requests."""
        return round(self.feedback_wait / self.window) if self.rates[name].by_feedback else 0


SCENARIOS: dict[str, tuple[str, dict[str, float]]] = {
    "constant": ("constant load and rates", {}),
    "diurnal": ("load and odds of events swing by half over a day", {"day": 0.5}),
    "bursts": ("load varies by 100 % from window to window", {"burstiness": 1.0}),
    "drift": ("the base rates drift by 20 % an hour", {"drift": 0.2}),
    "bad-minutes": ("six bad minutes an hour hit both arms", {"bad_minutes": 6.0}),
    "gaps": ("one scrape in five fails", {"scrape_gaps": 0.2}),
    "resets": ("counters start anew four times an hour", {"counter_resets": 4.0}),
    "restarts": ("a replica of each arm restarts twice a day", {"restarts": 2.0 / 24}),
    "users": ("5,000 users with rates of their own, each request drawn anew", {"users": 5000, "spread": 0.1}),
    "sticky-users": (
        "5,000 users with rates of their own, who stay with an arm",
        {"users": 5000, "spread": 0.1, "sticky": 1},
    ),
}
"""Named kinds of traffic: what they are, and the fields of `TrafficModel` that differ from constant traffic."""


def scenario(name: str, model: TrafficModel) -> TrafficModel:
    """Returns a traffic model with the fields of a named scenario.

    Raises:
        UsageError: There is no such scenario.
    """
    if name not in SCENARIOS:
        raise UsageError(f"{name!r} is not a kind of traffic", remedy=f"Take one of: {', '.join(SCENARIOS)}.")
    changes = SCENARIOS[name][1]
    return replace(
        model,
        day=changes.get("day", model.day),
        burstiness=changes.get("burstiness", model.burstiness),
        drift=changes.get("drift", model.drift),
        bad_minutes=changes.get("bad_minutes", model.bad_minutes),
        scrape_gaps=changes.get("scrape_gaps", model.scrape_gaps),
        counter_resets=changes.get("counter_resets", model.counter_resets),
        restarts=changes.get("restarts", model.restarts),
        users=int(changes.get("users", model.users)),
        spread=changes.get("spread", model.spread),
        sticky=bool(changes.get("sticky", model.sticky)),
    )


def event_rates(policy: RolloutPolicy, given: Mapping[str, float]) -> dict[str, EventRate]:
    """Returns stable's rates of events by guardrail: as given by name or kind, else typical ones.

    Raises:
        UsageError: A rate is given that belongs to no guardrail, or that is not between 0 and 1.
    """
    known = {guardrail.name for guardrail in policy.guardrails} | {guardrail.kind for guardrail in policy.guardrails}
    for name, rate in given.items():
        if name not in known:
            names = ", ".join(sorted(guardrail.name for guardrail in policy.guardrails))
            raise UsageError(f"the policy has no guardrail {name!r}", remedy=f"It has: {names}.")
        if not 0 < rate < 1:
            raise UsageError(f"the base rate of {name} is {rate}", remedy="Give a rate between 0 and 1.")
    rates = {}
    for guardrail in policy.guardrails:
        rate = given.get(guardrail.name, given.get(guardrail.kind, BASE_RATES.get(guardrail.kind, 0.05)))
        rates[guardrail.name] = EventRate(rate, guardrail.kind, guardrail.higher_is_better, guardrail.is_feedback)
    return rates
