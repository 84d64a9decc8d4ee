"""Builds prometheus_client metrics from their one definition, and serves them on a port of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from slipway.contracts.errors import EnvironmentProblemError
from slipway.contracts.metrics import MetricDefinition

disable_created_metrics()  # type: ignore[no-untyped-call]


def counter(definition: MetricDefinition, registry: CollectorRegistry) -> Counter:
    """Returns the counter of a definition; `_total` is part of the definition's name."""
    return Counter(definition.name, definition.help, definition.labels, registry=registry)


def gauge(definition: MetricDefinition, registry: CollectorRegistry) -> Gauge:
    """Returns the gauge of a definition."""
    return Gauge(definition.name, definition.help, definition.labels, registry=registry)


def histogram(definition: MetricDefinition, registry: CollectorRegistry) -> Histogram:
    """Returns the histogram of a definition with its bucket bounds."""
    return Histogram(definition.name, definition.help, definition.labels, registry=registry, buckets=definition.buckets)


def serve_metrics(registry: CollectorRegistry, *, host: str, port: int) -> None:
    """Answers GET /metrics in a daemon thread.

    Raises:
        EnvironmentProblemError: The port is taken.
    """
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise EnvironmentProblemError(
            f"port {port} cannot be opened for metrics ({error.strerror})",
            where=f"{host}:{port}",
            remedy="Stop what listens there, or choose another port.",
        ) from error
