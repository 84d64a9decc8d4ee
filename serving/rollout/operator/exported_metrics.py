"""What the operator's process exports: every rollout that it looks after, and how it is itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipway.contracts import metrics
from slipway.contracts.metrics import MetricDefinition
from slipway.contracts.rollout import RolloutSpec
from slipway.serving.exposition import counter
from slipway.serving.rollout.exported_metrics import ControllerMetrics


class OperatorMetrics(ControllerMetrics):
    """Metrics of one operator.

    Args:
        leads: Says whether it holds the Lease.
        depth: Says how many rollouts are due.
        calls: Says how many calls to the API server were made.
    """

    def __init__(self, *, leads: Callable[[], bool], depth: Callable[[], int], calls: Callable[[], int]) -> None:
        super().__init__()
        self.registry.register(_Own(self, leads, depth, calls))
        self._restored = counter(metrics.OPERATOR_RESTORED, self.registry)
        for reason in ("RouteRestored", "InferenceServiceRestored"):
            self._restored.labels(reason)

    def restored(self, reason: str) -> None:
        """Counts an object that was put right."""
        self._restored.labels(reason).inc()

    def _service(self, spec: RolloutSpec) -> str:
        return spec.id


class _Own(Collector):
    def __init__(
        self, shown: ControllerMetrics, leads: Callable[[], bool], depth: Callable[[], int], calls: Callable[[], int]
    ) -> None:
        self._shown, self._leads, self._depth, self._calls = shown, leads, depth, calls

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield _gauge(metrics.OPERATOR_LEADER, float(self._leads()))
        yield _gauge(metrics.OPERATOR_QUEUE_DEPTH, float(self._depth()))
        calls = metrics.OPERATOR_API_CALLS
        yield CounterMetricFamily(calls.name.removesuffix("_total"), calls.help, value=float(self._calls()))
        phases = metrics.OPERATOR_ROLLOUTS
        family = GaugeMetricFamily(phases.name, phases.help, labels=phases.labels)
        for phase, count in self._shown.phases().items():
            family.add_metric((phase.value,), float(count))
        yield family


def _gauge(definition: MetricDefinition, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(definition.name, definition.help, value=value)
