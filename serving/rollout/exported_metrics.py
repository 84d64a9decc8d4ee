"""The rollout as metrics: phase, step, weights, verdicts and bounds, and how the controller itself is.

The gauges describe the rollouts looked at last, one a model, and are made at each scrape from one state each, so that
they always fit together, and those of an earlier rollout are gone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipway.contracts import metrics
from slipway.contracts.metrics import MetricDefinition
from slipway.contracts.rollout import RolloutSpec
from slipway.serving.exposition import counter, gauge, histogram
from slipway.serving.rollout.core.types import Action, Outcome, Phase, RecordEvent, State, Verdict

_EVENT_KINDS = ("phase", "command", "dropped", "alarm", "refused")


class ControllerMetrics:
    """What the controller's process exports.

    Args:
        registry: Where the metrics are registered; one of its own by default.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._standing = _Standing()
        self.registry.register(self._standing)
        self._decisions = counter(metrics.ROLLOUT_DECISIONS, self.registry)
        self._ticks = counter(metrics.ROLLOUT_TICKS, self.registry)
        self._duration = histogram(metrics.ROLLOUT_TICK_DURATION, self.registry)
        self._last = gauge(metrics.ROLLOUT_LAST_TICK, self.registry)
        self._errors = counter(metrics.ROLLOUT_ERRORS, self.registry)

    def show(self, spec: RolloutSpec, state: State, actions: Sequence[Action] = ()) -> None:
        """Takes in a look at a rollout, or the state that an earlier controller left."""
        where = self._service(spec)
        if where not in self._standing.shown:
            for kind in _EVENT_KINDS:
                # A counter that appears only with its first event shows no increase for it.
                self._decisions.labels(spec.model, kind)
        self._standing.shown = {**self._standing.shown, where: (spec, state)}
        for action in actions:
            if isinstance(action, RecordEvent):
                self._decisions.labels(spec.model, action.kind).inc()

    def forget(self, spec_id: str) -> None:
        """Ends the gauges of a rollout that is gone."""
        self._standing.shown = {key: shown for key, shown in self._standing.shown.items() if shown[0].id != spec_id}

    def phases(self) -> Mapping[Phase, int]:
        """Returns how many of the rollouts shown are in each phase."""
        phases = [state.phase for _, state in self._standing.shown.values()]
        return {phase: phases.count(phase) for phase in Phase}

    def _service(self, spec: RolloutSpec) -> str:
        """Returns what has one rollout at a time: the model, of which this machine has one."""
        return spec.model

    def ticked(self, seconds: float, error: Exception | None = None) -> None:
        """Counts a look that took so long, and what it ended with."""
        self._ticks.inc()
        self._duration.observe(seconds)
        self._last.set(time.time())
        if error is not None:
            self._errors.labels(type(error).__name__).inc()


class _Standing(Collector):
    """The gauges of the rollouts that were looked at last, by service. The mapping is replaced, never changed."""

    def __init__(self) -> None:
        self.shown: Mapping[str, tuple[RolloutSpec, State]] = {}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        shown = [((spec.model, spec.id), state) for spec, state in self.shown.values()]
        if not shown:
            return
        yield _family(
            metrics.ROLLOUT_PHASE,
            {(*where, phase.value): float(phase is state.phase) for where, state in shown for phase in Phase},
        )
        yield _family(metrics.ROLLOUT_STEP, {where: state.step + 1.0 for where, state in shown})
        yield _family(
            metrics.ROLLOUT_WEIGHT,
            {(*where, arm): float(weight) for where, state in shown for arm, weight in state.weights.items()},
        )
        yield from _verdicts([(where, state.verdicts) for where, state in shown])


def _verdicts(shown: Sequence[tuple[tuple[str, str], Sequence[Verdict]]]) -> Iterator[Metric]:
    judged = {(*where, verdict.guardrail, verdict.arm): verdict for where, verdicts in shown for verdict in verdicts}
    yield _family(
        metrics.ROLLOUT_VERDICT,
        {
            (*labels, outcome.value): float(outcome is verdict.outcome)
            for labels, verdict in judged.items()
            for outcome in Outcome
        },
    )
    yield _family(metrics.ROLLOUT_MET, {labels: float(verdict.met) for labels, verdict in judged.items()})
    bounds: dict[tuple[str, ...], float] = {}
    for labels, verdict in judged.items():
        bounds[*labels, verdict.measure, "lower"] = -math.inf if verdict.lower is None else verdict.lower
        bounds[*labels, verdict.measure, "upper"] = math.inf if verdict.upper is None else verdict.upper
    yield _family(metrics.ROLLOUT_BOUND, bounds)
    yield _family(
        metrics.ROLLOUT_MARGIN,
        {
            (*labels, verdict.measure): verdict.margin
            for labels, verdict in judged.items()
            if verdict.margin is not None
        },
    )
    yield _family(metrics.ROLLOUT_SAMPLES, {labels: float(verdict.samples) for labels, verdict in judged.items()})


def _family(definition: MetricDefinition, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
