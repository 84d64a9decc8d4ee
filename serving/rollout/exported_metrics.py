"""The rollout as metrics: phase, step, weights, verdicts and bounds, and how the controller itself is.

The gauges describe the rollout of the last look and are made at each scrape from one state, so that they always fit
together, and those of an earlier rollout are gone.
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
        if self._standing.shown is None or self._standing.shown[0].model != spec.model:
            for kind in _EVENT_KINDS:
                # A counter that appears only with its first event shows no increase for it.
                self._decisions.labels(spec.model, kind)
        self._standing.shown = (spec, state)
        for action in actions:
            if isinstance(action, RecordEvent):
                self._decisions.labels(spec.model, action.kind).inc()

    def ticked(self, seconds: float, error: Exception | None = None) -> None:
        """Counts a look that took so long, and what it ended with."""
        self._ticks.inc()
        self._duration.observe(seconds)
        self._last.set(time.time())
        if error is not None:
            self._errors.labels(type(error).__name__).inc()


class _Standing(Collector):
    """The gauges of the rollout that was looked at last."""

    def __init__(self) -> None:
        self.shown: tuple[RolloutSpec, State] | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        shown = self.shown
        if shown is None:
            return
        spec, state = shown
        where = (spec.model, spec.id)
        yield _family(metrics.ROLLOUT_PHASE, {(*where, phase.value): float(phase is state.phase) for phase in Phase})
        yield _family(metrics.ROLLOUT_STEP, {where: state.step + 1.0})
        yield _family(metrics.ROLLOUT_WEIGHT, {(*where, arm): float(weight) for arm, weight in state.weights.items()})
        yield from _verdicts(where, state.verdicts)


def _verdicts(where: tuple[str, str], verdicts: Sequence[Verdict]) -> Iterator[Metric]:
    judged = {(*where, verdict.guardrail, verdict.arm): verdict for verdict in verdicts}
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
