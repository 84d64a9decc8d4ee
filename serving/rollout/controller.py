"""The loop that runs rollouts on this machine: observe, decide, write down, act.

The decision is `decide`'s. What it says is written before it is carried out, and carried out again as long as the
next observation does not confirm it, so that the process may be killed at any moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slipway.contracts.errors import ServiceError, SlipwayError
from slipway.contracts.rollout import ArmTarget, RolloutSpec
from slipway.serving.local.desired import Arm
from slipway.serving.local.observed import Observed
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.observations import Observations, Target
from slipway.serving.rollout.core.serialization import to_plain
from slipway.serving.rollout.core.types import Action, Alarm, MoveAlias, Phase, RecordEvent, RecordVerdicts, State
from slipway.serving.rollout.history_lines import add_readings, standing
from slipway.serving.rollout.local import LocalPlane
from slipway.serving.rollout.queries import queries_for
from slipway.serving.rollout.readings import CounterReader, Windows, windows_of
from slipway.serving.rollout.store import Record, RolloutFolder, RolloutStore

log = logging.getLogger(__name__)


class Controller:
    """Drives the oldest rollout that has not ended; a newer one is told to it as the version that is wanted.

    Args:
        plane: Hands and eyes on the machine.
        store: Rollouts on disk.
        reader: Makes a reader of the Prometheus at an address.
        clock: Unix seconds.
        seen: Receives spec, state and actions of every look, as what exports metrics does.
    """

    def __init__(
        self,
        plane: LocalPlane,
        store: RolloutStore,
        *,
        reader: Callable[[str], CounterReader] = CounterReader,
        clock: Callable[[], float] = time.time,
        seen: Callable[[RolloutSpec, State, Sequence[Action]], None] = lambda *_: None,
    ) -> None:
        self._plane = plane
        self._store = store
        self._make_reader = reader
        self._reader: CounterReader | None = None
        self._clock = clock
        self._seen = seen

    def tick(self) -> RolloutFolder | None:
        """Looks once at the rollout that is due and acts; returns it, or None when there is nothing to do."""
        waiting = self._store.open()
        if not waiting:
            return None
        folder, newer = waiting[0], waiting[1:]
        spec, arms = folder.spec, folder.arms
        now = self._clock()
        record = folder.read() or Record(state=new_state(spec, now))
        before = record.state
        observations = self._observe(folder, spec, record, newer, now)
        state, actions = decide(record.state, observations, spec.policy, now)
        record.state = state
        record.smoke_test = None
        record.readings = add_readings(record.readings, observations, state)
        folder.write(record, self._history(record, before, actions, spec, now))
        folder.clear(state.handled)
        self._seen(spec, state, actions)
        for action in actions:
            self._carry_out(action, arms, record)
        if record.smoke_test is not None:
            folder.write(record)
        return folder

    def _observe(
        self, folder: RolloutFolder, spec: RolloutSpec, record: Record, newer: Sequence[RolloutFolder], now: float
    ) -> Observations:
        observed = self._plane.observed()
        targets = _targets(spec)
        windows, problem = self._windows(spec, targets, record, observed, now)
        return Observations(
            at=now,
            arms=self._plane.arms(observed, {target.arm: target.digest for target in targets}),
            counts=windows.counts,
            moments=windows.moments,
            histograms=windows.histograms,
            metrics_error=problem,
            desired=_target(newer[-1].spec.candidates[0]) if newer else None,
            commands=folder.commands(),
            smoke_test=record.smoke_test,
            champion=self._plane.champion(spec.model) if _moves_alias(record.state) else None,
        )

    def _windows(
        self, spec: RolloutSpec, targets: Sequence[ArmTarget], record: Record, observed: Observed, now: float
    ) -> tuple[Windows, str | None]:
        queries = queries_for(spec.policy.guardrails, targets, spec.model, spec.policy.assignment)
        try:
            reader = self._reader_of(observed)
            reading = reader.read(queries, record.snapshot, now)
        except ServiceError as error:
            return Windows(), str(error)
        if reading.newest is None:
            # Without traffic so far there is no series yet; that is the absence of data, not an error.
            return Windows(), None
        start = record.window_end
        if start is not None and reading.newest <= start:
            return Windows(), None
        record.snapshot, record.window_end = reading.snapshot, reading.newest
        return Windows() if start is None else windows_of(reading, start, reading.newest), None

    def _reader_of(self, observed: Observed) -> CounterReader:
        url = observed.endpoints.get("prometheus")
        if url is None:
            raise ServiceError("there is no Prometheus", remedy="Check: slipway status")
        if self._reader is None or self._reader.url != url.rstrip("/"):
            if self._reader is not None:
                self._reader.close()
            self._reader = self._make_reader(url)
        return self._reader

    def _carry_out(self, action: Action, arms: Mapping[str, Arm], record: Record) -> None:
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
                    kept = {"rule": state.reason, "readings": record.readings, "queries": _resolved(spec)}
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


def _moves_alias(state: State) -> bool:
    """Returns whether the alias is on its way to a version: forward, or back again."""
    return state.phase is Phase.PROMOTING or (state.phase is Phase.ROLLING_BACK and state.alias_moved)


def _targets(spec: RolloutSpec) -> list[ArmTarget]:
    return [*spec.candidates, *([spec.stable] if spec.stable else [])]


def _target(target: ArmTarget) -> Target:
    return Target(target.arm, target.version, target.digest)


def _resolved(spec: RolloutSpec) -> dict[str, dict[str, str]]:
    """Returns the query behind each guardrail and arm, as `explain` shows it."""
    resolved: dict[str, dict[str, str]] = {}
    queries = queries_for(spec.policy.guardrails, _targets(spec), spec.model, spec.policy.assignment)
    for query in queries:
        resolved.setdefault(query.guardrail, {})[query.arm] = query.query
    return resolved
