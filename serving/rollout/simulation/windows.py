"""Windows of many simulated rollouts at once: loads, assignments and events drawn under the weights in force."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.effects import Effect
from slipway.serving.rollout.simulation.traffic import DAY, TrafficModel

Bools = NDArray[np.bool_]

_BAD_MINUTE = np.log(10.0)
_RESTART_ERRORS = 0.02


@dataclass(frozen=True)
class ArmCounts:
    """Events out of n of one arm, for A rollouts: shape [A] each."""

    events: Ints
    n: Ints


@dataclass(frozen=True)
class Windows:
    """What can be read at one look, for A rollouts.

    Args:
        start: Beginnings of the windows in seconds, shape [A]; all end at `end`.
        readable: Whether there is a reading at all, shape [A].
        candidate: By guardrail, the candidate's counts.
        stable: By guardrail, stable's.
        requests: Requests that the gateway gave candidate and stable.
        restarts: Restarts of the candidate so far, shape [A].
        exposed: Expected number of requests that were worse off for having met the candidate, since the last look.
        late: By guardrail, how many seconds its window lies before this one, where it waited for feedback.
    """

    start: Floats
    end: float
    readable: Bools
    candidate: dict[str, ArmCounts]
    stable: dict[str, ArmCounts]
    requests: tuple[Ints, Ints]
    restarts: Ints
    exposed: Floats
    late: dict[str, float] = field(default_factory=dict)

    def rows(self, chosen: Ints | Bools) -> Windows:
        """Returns the windows of some of the rollouts."""
        return Windows(
            self.start[chosen],
            self.end,
            self.readable[chosen],
            {name: ArmCounts(arm.events[chosen], arm.n[chosen]) for name, arm in self.candidate.items()},
            {name: ArmCounts(arm.events[chosen], arm.n[chosen]) for name, arm in self.stable.items()},
            (self.requests[0][chosen], self.requests[1][chosen]),
            self.restarts[chosen],
            self.exposed[chosen],
            self.late,
        )


@dataclass
class Traffic:
    """Draws the windows of `runs` rollouts, one look after the other.

    Load, base rates and faults are drawn for every rollout at every look, from a generator of their own: whatever is
    decided, and by whom, the same seed gives the same surroundings.

    Args:
        model: The kind of traffic.
        effect: What the candidate does differently.
        runs: Number of rollouts R.
        seed: Of everything.
    """

    model: TrafficModel
    effect: Effect
    runs: int
    seed: np.random.SeedSequence
    look: int = 0
    _pending: dict[tuple[str, str], tuple[Ints, Ints]] = field(default_factory=dict)
    _waiting: dict[tuple[str, str], deque[tuple[Ints, Ints]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        surroundings, events, people = self.seed.spawn(3)
        self._surroundings = np.random.default_rng(surroundings)
        self._events = np.random.default_rng(events)
        self._shift = np.zeros(self.runs)
        self._since = np.zeros(self.runs)
        self._restarts = np.zeros(self.runs, dtype=np.int64)
        self._exposed = np.zeros(self.runs)
        self._phase = self._surroundings.uniform(0, DAY, self.runs)
        for name in (*self.model.rates, ""):
            for arm in ("candidate", "stable"):
                self._pending[name, arm] = (np.zeros(self.runs, np.int64), np.zeros(self.runs, np.int64))
                late = self.model.looks_late(name) if name else 0
                nothing = (np.zeros(self.runs, np.int64), np.zeros(self.runs, np.int64))
                self._waiting[name, arm] = deque([nothing] * late)
        self._late = {name: self.model.looks_late(name) * self.model.window for name in self.model.rates}
        self._people = Population.draw(self.model, self.runs, np.random.default_rng(people))

    def draw(self, rows: Ints, weights: Ints) -> Windows:
        """Returns the next windows of some rollouts.

        Args:
            rows: Which rollouts, shape [A].
            weights: Percent of traffic that the candidate has in each of them, shape [A].
        """
        model, rng = self.model, self._events
        self.look += 1
        end = self.look * model.window
        load, log_odds, faults = self._surround(end)
        share = self._people.share(rows, weights)
        total = rng.poisson(load[rows])
        candidate_n = rng.binomial(total, share)
        requests = {"candidate": candidate_n, "stable": total - candidate_n}
        self._restarts += faults["restart", "candidate"]
        exposed = np.zeros(len(rows))
        for name, base in model.rates.items():
            for arm, n in requests.items():
                rate = self._people.rate(name, arm, rows, weights, base.rate)
                rate = _moved(rate, -log_odds[rows] if base.good else log_odds[rows])
                if arm == "candidate" and end > model.healthy_for:
                    changed = self.effect.rates(name, rate)
                    exposed += n * np.abs(changed - rate) if name == self.effect.guardrail else 0.0
                    rate = changed
                if base.kind == "errors":
                    rate = np.minimum(rate + _RESTART_ERRORS * faults["restart", arm][rows], 1.0)
                self._add(name, arm, rows, rng.binomial(n, rate), n)
        for arm, n in requests.items():
            self._add("", arm, rows, np.zeros_like(n), n)
            self._lose(arm, rows, faults)
        self._exposed[rows] += exposed
        return self._read(rows, end, faults["gap", ""])

    def _surround(self, end: float) -> tuple[Floats, Floats, dict[tuple[str, str], Bools]]:
        """Returns expected load, shift of the log-odds of bad events, and what goes wrong, for every rollout."""
        model, rng = self.model, self._surroundings
        hours = model.window / 3600
        swing = model.day * np.sin(2 * np.pi * (end + self._phase) / DAY)
        load = model.requests_per_second * model.window * (1 + swing)
        if model.burstiness > 0:
            load = load * rng.gamma(1 / model.burstiness, model.burstiness, self.runs)
        if model.drift > 0:
            self._shift += rng.normal(0, model.drift * np.sqrt(hours), self.runs)
        log_odds = self._shift + np.log1p(swing)
        if model.bad_minutes > 0:
            log_odds = log_odds + _BAD_MINUTE * (rng.random(self.runs) < model.bad_minutes / 60)
        faults = {("gap", ""): self._happens(model.scrape_gaps)}
        for arm in ("candidate", "stable"):
            faults["reset", arm] = self._happens(model.counter_resets * hours)
            faults["restart", arm] = self._happens(model.restarts * hours)
        return load, log_odds, faults

    def _happens(self, chance: float) -> Bools:
        if chance <= 0:
            return np.zeros(self.runs, dtype=np.bool_)
        return np.asarray(self._surroundings.random(self.runs) < chance)

    def _add(self, name: str, arm: str, rows: Ints, events: Ints, n: Ints) -> None:
        pending_events, pending_n = self._pending[name, arm]
        waiting = self._waiting[name, arm]
        if not waiting:
            pending_events[rows] += events
            pending_n[rows] += n
            return
        drawn = (np.zeros(self.runs, np.int64), np.zeros(self.runs, np.int64))
        drawn[0][rows], drawn[1][rows] = events, n
        waiting.append(drawn)
        due = waiting.popleft()
        pending_events += due[0]
        pending_n += due[1]

    def _lose(self, arm: str, rows: Ints, faults: dict[tuple[str, str], Bools]) -> None:
        """Takes away what was counted before the counters of an arm started at 0 again, within this window."""
        for name in (*self.model.rates, ""):
            own = bool(name) and not self.model.rates[name].at_the_gateway
            lost = faults["reset", arm] | faults["restart", arm] if own else faults["reset", arm]
            hit = rows[lost[rows]]
            if not hit.size:
                continue
            kept = self._events.random(hit.size)
            events, n = self._pending[name, arm]
            rest = self._events.binomial(n[hit] - events[hit], kept)
            events[hit] = self._events.binomial(events[hit], kept)
            n[hit] = events[hit] + rest

    def _read(self, rows: Ints, end: float, gaps: Bools) -> Windows:
        readable = ~gaps[rows]
        read = rows[readable]
        counts: dict[str, dict[str, ArmCounts]] = {"candidate": {}, "stable": {}}
        requests = {}
        for (name, arm), (events, n) in self._pending.items():
            taken = ArmCounts(events[rows], n[rows])
            if name:
                counts[arm][name] = taken
            else:
                requests[arm] = taken.n
            events[read] = 0
            n[read] = 0
        start = self._since[rows]
        self._since[read] = end
        exposed = self._exposed[rows]
        self._exposed[rows] = 0.0
        return Windows(
            start,
            end,
            readable,
            counts["candidate"],
            counts["stable"],
            (requests["candidate"], requests["stable"]),
            self._restarts[rows],
            exposed,
            self._late,
        )


def _moved(rate: Floats, log_odds: Floats) -> Floats:
    """Returns rates of events with their log-odds moved."""
    odds = np.exp(log_odds)
    return np.asarray(rate * odds / (1 - rate + rate * odds))


@dataclass(frozen=True)
class Population:
    """The users of each rollout, in the order in which a growing weight takes them over.

    Given who belongs to an arm, its requests are independent draws of a user by activity, so that events out of n are
    binomial with the arm's mean rate: exact, and all that has to be kept is that mean for each weight.

    Args:
        shares: Share of requests that the candidate gets at each weight in percent, shape [R, 101]; None for a
            population in which each request is drawn anew.
        rates: By guardrail and arm, the mean rate at each weight, shape [R, 101], or [R, 1] for both arms alike.
    """

    shares: Floats | None
    rates: dict[tuple[str, str], Floats]

    @classmethod
    def draw(cls, model: TrafficModel, runs: int, rng: np.random.Generator) -> Population:
        """Draws who there is: exponential activities, beta-distributed rates."""
        if model.users <= 0 or model.spread <= 0:
            return cls(None, {})
        taken = np.rint(np.linspace(0, model.users, 101)).astype(np.int64)
        shares = np.empty((runs, 101))
        rates = {(name, arm): np.empty((runs, 101)) for name in model.rates for arm in ("candidate", "stable")}
        precision = 1 / model.spread - 1
        for run in range(runs):
            activity = rng.exponential(size=model.users)
            ordered = np.concatenate([[0.0], np.cumsum(activity)])
            shares[run] = ordered[taken] / ordered[-1]
            for name, base in model.rates.items():
                own = activity * rng.beta(base.rate * precision, (1 - base.rate) * precision, model.users)
                below = np.concatenate([[0.0], np.cumsum(own)])
                with np.errstate(invalid="ignore", divide="ignore"):
                    rates[name, "candidate"][run] = below[taken] / ordered[taken]
                    rates[name, "stable"][run] = (below[-1] - below[taken]) / (ordered[-1] - ordered[taken])
                rates[name, "candidate"][run, 0] = rates[name, "stable"][run, 100] = below[-1] / ordered[-1]
        if model.sticky:
            return cls(shares, {key: np.clip(value, 0.0, 1.0) for key, value in rates.items()})
        everyone = {key: np.repeat(rates[key[0], "candidate"][:, 100:], 101, axis=1) for key in rates}
        return cls(None, everyone)

    def share(self, rows: Ints, weights: Ints) -> Floats:
        """Returns the share of requests that the candidate gets, shape [A]."""
        return weights / 100.0 if self.shares is None else self.shares[rows, weights]

    def rate(self, name: str, arm: str, rows: Ints, weights: Ints, base: float) -> Floats:
        """Returns the rate of events of an arm before anything moves it, shape [A]."""
        kept = self.rates.get((name, arm))
        return np.full(len(rows), base) if kept is None else kept[rows, weights]
