"""The loop that runs rollouts: observe, decide, write down, act; the same on one machine and on a cluster.

The decision is `decide`'s. What it says is written before it is carried out, and carried out again as long as the
next observation does not confirm it, so that the process may be killed at any moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from slipway.contracts.errors import ServiceError, SlipwayError
from slipway.contracts.rollout import ArmTarget, RolloutSpec
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.observations import ArmObservation, Command, Observations, SmokeTestResult, Target
from slipway.serving.rollout.core.serialization import to_plain
from slipway.serving.rollout.core.types import Action, Alarm, MoveAlias, Phase, RecordEvent, RecordVerdicts, State
from slipway.serving.rollout.history_lines import add_readings, standing
from slipway.serving.rollout.queries import AT_LOCAL_GATEWAY, CounterSource, queries_for, resource_queries
from slipway.serving.rollout.readings import CounterReader, Reading, Snapshot, Windows, windows_of
from slipway.serving.rollout.resources import add
from slipway.serving.rollout.store import Record, RolloutFolder, RolloutStore

log = logging.getLogger(__name__)


class Seen(Protocol):
    """What a plane saw at one look; `endpoints` names the Prometheus, where there is one."""

    @property
    def endpoints(self) -> Mapping[str, str]: ...


O = TypeVar("O", bound=Seen)  # noqa: E741 - an observation
A = TypeVar("A")  # how an arm is run
A_in = TypeVar("A_in", contravariant=True)
A_out = TypeVar("A_out", covariant=True)


class Plane(Protocol[O, A_in]):
    """Hands and eyes of a rollout: what runs, and what is done about it. Every action may be repeated."""

    def observed(self) -> O:
        """Returns what runs now."""

    def arms(self, observed: O, digests: Mapping[str, str]) -> dict[str, ArmObservation]:
        """Returns every arm as the core wants it; nothing where that is not known."""

    def champion(self, model: str) -> str | None:
        """Returns the version that the alias `champion` names, or None."""

    def carry_out(self, action: Action, arms: Mapping[str, A_in]) -> SmokeTestResult | None:
        """Brings one action on its way; returns the result of a smoke test."""


class Home(Protocol[A_out]):
    """Where one rollout is kept."""

    @property
    def spec(self) -> RolloutSpec: ...

    @property
    def arms(self) -> Mapping[str, A_out]: ...

    def read(self) -> Record | None: ...

    def write(self, record: Record, lines: Sequence[Mapping[str, Any]] = ()) -> None: ...

    def commands(self) -> tuple[Command, ...]: ...

    def clear(self, handled: Sequence[str]) -> None: ...


class Looker(Generic[O, A]):
    """Looks at a rollout and acts: the one path from observations to effects.

    Args:
        plane: Hands and eyes.
        reader: Makes a reader of the Prometheus at an address.
        clock: Unix seconds.
        seen: Receives spec, state and actions of every look, as what exports metrics does.
        source: Where requests are counted.
    """

    def __init__(
        self,
        plane: Plane[O, A],
        *,
        reader: Callable[[str], CounterReader] = CounterReader,
        clock: Callable[[], float] = time.time,
        seen: Callable[[RolloutSpec, State, Sequence[Action]], None] = lambda *_: None,
        source: CounterSource = AT_LOCAL_GATEWAY,
    ) -> None:
        self._plane = plane
        self._make_reader = reader
        self._reader: CounterReader | None = None
        self._clock = clock
        self._seen = seen
        self._source = source

    def look(self, home: Home[A], wanted: Target | None = None) -> Record:
        """Looks once and acts; returns what was remembered.

        Args:
            home: The rollout.
            wanted: The version that is wanted now, or None to leave that as it is.
        """
        spec, arms = home.spec, home.arms
        now = self._clock()
        record = home.read() or Record(state=new_state(spec, now))
        before = record.state
        observations = self._observe(home, spec, record, wanted, now)
        state, actions = decide(record.state, observations, spec.policy, now)
        if (state.candidates, state.stable) != (before.candidates, before.stable):
            # Other versions are compared from here on: their counters have no reading to be subtracted yet.
            record.snapshot, record.window_end, record.readings, record.resources = Snapshot(), None, [], {}
        record.state = state
        record.smoke_test = None
        record.readings = add_readings(record.readings, observations, state)
        lines = [*_in_force(record, observations, now), *self._history(record, before, actions, spec, now)]
        home.write(record, lines)
        home.clear(state.handled)
        self._seen(spec, state, actions)
        for action in actions:
            self._carry_out(action, arms, record)
        if record.smoke_test is not None:
            home.write(record)
        return record

    def _observe(
        self, home: Home[A], spec: RolloutSpec, record: Record, wanted: Target | None, now: float
    ) -> Observations:
        observed = self._plane.observed()
        targets = _targets(spec)
        # What has ended is not measured any more.
        ended = record.state.terminal
        windows, problem = (Windows(), None) if ended else self._windows(spec, targets, record, observed, now)
        return Observations(
            at=now,
            arms=self._plane.arms(observed, {target.arm: target.digest for target in targets}),
            counts=windows.counts,
            moments=windows.moments,
            histograms=windows.histograms,
            metrics_error=problem,
            desired=wanted,
            commands=home.commands(),
            smoke_test=record.smoke_test,
            champion=self._plane.champion(spec.model) if _moves_alias(record.state) else None,
        )

    def _windows(
        self, spec: RolloutSpec, targets: Sequence[ArmTarget], record: Record, observed: O, now: float
    ) -> tuple[Windows, str | None]:
        queries = queries_for(spec.policy.guardrails, targets, spec.model, spec.policy.assignment, self._source)
        costs = resource_queries(targets, spec.model, self._source)
        try:
            reader = self._reader_of(observed)
            reading = reader.read((*queries, *costs), record.snapshot, now)
        except ServiceError as error:
            return Windows(), str(error)
        if reading.newest is None:
            # Without traffic so far there is no series yet; that is the absence of data, not an error.
            return Windows(), None
        start = record.window_end
        if start is not None and reading.newest <= start:
            return Windows(), None
        record.snapshot, record.window_end = reading.snapshot, reading.newest
        if start is None:
            return Windows(), None
        step_since = record.state.step_since
        if reading.began is not None and step_since is not None and reading.began < step_since <= start:
            # Some processes were scraped last before the step began: this window is of both.
            return Windows(), None
        _add_resources(record, reading, start, reading.newest)
        return windows_of(reading, start, reading.newest), None

    def _reader_of(self, observed: O) -> CounterReader:
        url = observed.endpoints.get("prometheus")
        if url is None:
            raise ServiceError("there is no Prometheus", remedy="Check: slipway status")
        if self._reader is None or self._reader.url != url.rstrip("/"):
            if self._reader is not None:
                self._reader.close()
            self._reader = self._make_reader(url)
        return self._reader

    def _carry_out(self, action: Action, arms: Mapping[str, A], record: Record) -> None:
        try:
            record.smoke_test = self._plane.carry_out(action, arms) or record.smoke_test
        except SlipwayError as error:
            log.warning("%s could not be carried out and comes again: %s", type(action).__name__, error)

    def _history(
        self, record: Record, before: State, actions: Sequence[Action], spec: RolloutSpec, now: float
    ) -> list[dict[str, Any]]:
        state = record.state
        lines: list[dict[str, Any]] = []
        moved = (before.phase, before.step) != (state.phase, state.step)
        if moved and record.readings and not any(isinstance(action, RecordVerdicts) for action in actions):
            # Time alone moved it on: the looks before, thinned out so far, are what it rests on.
            actions = (*actions, RecordVerdicts(now, state.step, dict(state.weights), state.verdicts))
        for action in actions:
            match action:
                case RecordEvent():
                    log.info("%s: %s", action.kind, action.message)
                    lines.append({"type": "event", **to_plain(action), **standing(state)})
                case Alarm(message=message):
                    log.error("alarm: %s", message)
                case RecordVerdicts() if self._worth_keeping(record, before, action, now):
                    record.last_verdicts_at = now
                    kept = {"rule": state.reason, "readings": record.readings, "queries": _resolved(spec, self._source)}
                    kept |= {"resources": record.resources} if record.resources else {}
                    lines.append({"type": "verdicts", **kept, **to_plain(action), **standing(state)})
                    record.readings = []
                case MoveAlias(alias=alias, version=version):
                    log.info("alias %s moves to version %s", alias, version)
        return lines

    @staticmethod
    def _worth_keeping(record: Record, before: State, action: RecordVerdicts, now: float) -> bool:
        """Keeps each look at which something changed; of the others all at first, then one in 200th of the time."""
        outcomes = [verdict.outcome for verdict in action.verdicts]
        moved = (before.phase, before.step) != (record.state.phase, record.state.step)
        if moved or outcomes != [verdict.outcome for verdict in before.verdicts]:
            return True
        since = record.state.traffic_since or now
        return now - record.last_verdicts_at >= max(0.9, (now - since) / 200)


class Controller(Looker[O, A]):
    """Drives the oldest rollout of this machine that has not ended; a newer one is told to it as the wanted version.

    Args:
        plane: Hands and eyes on the machine.
        store: Rollouts on disk.
        options: As for `Looker`.
    """

    def __init__(self, plane: Plane[O, A], store: RolloutStore, **options: Any) -> None:
        super().__init__(plane, **options)
        self._store = store

    def tick(self) -> RolloutFolder | None:
        """Looks once at the rollout that is due and acts; returns it, or None when there is nothing to do."""
        waiting = self._store.open()
        if not waiting:
            return None
        folder, newer = waiting[0], waiting[1:]
        self.look(folder, _target(newer[-1].spec.candidates[0]) if newer else None)  # type: ignore[arg-type]
        return folder


def _add_resources(record: Record, reading: Reading, start: float, end: float) -> None:
    """Adds up what the arms used since the first traffic; warm-up is no part of it."""
    since = record.state.traffic_since
    if since is None or start < since:
        return
    for use in reading.resources:
        record.resources = add(record.resources, use, end - start)


def _in_force(record: Record, observations: Observations, now: float) -> list[dict[str, Any]]:
    """Returns a line of history where other weights are in force than at the last look that saw them."""
    seen = {name: arm.weight_applied for name, arm in observations.arms.items() if arm.weight_applied}
    if not seen or seen == record.in_force:
        return []
    record.in_force = seen
    message = "In force: " + ", ".join(f"{arm} {weight} %" for arm, weight in sorted(seen.items()))
    line = {"type": "event", "at": now, "kind": "weights", "message": message, "in_force": seen}
    return [line | standing(record.state)]


def _moves_alias(state: State) -> bool:
    """Returns whether the alias is on its way to a version: forward, or back again."""
    return state.phase is Phase.PROMOTING or (state.phase is Phase.ROLLING_BACK and state.alias_moved)


def _targets(spec: RolloutSpec) -> list[ArmTarget]:
    return [*spec.candidates, *([spec.stable] if spec.stable else [])]


def _target(target: ArmTarget) -> Target:
    return Target(target.arm, target.version, target.digest)


def _resolved(spec: RolloutSpec, source: CounterSource) -> dict[str, dict[str, str]]:
    """Returns the query behind each guardrail and arm, as `explain` shows it."""
    resolved: dict[str, dict[str, str]] = {}
    queries = queries_for(spec.policy.guardrails, _targets(spec), spec.model, spec.policy.assignment, source)
    for query in queries:
        resolved.setdefault(query.guardrail, {})[query.arm] = query.query
    return resolved
