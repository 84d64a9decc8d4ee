"""The predictor's metrics, by their shared names, with every label set made at start."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, ProcessCollector

from slipway.contracts import metrics as names
from slipway.contracts.bundle import BundleManifest, bundle_digest
from slipway.serving.exposition import counter, gauge, histogram

CODES = ("200", "400", "404", "405", "408", "413", "415", "500", "503")
FALLBACK_REASONS = ("unknown_user", "features_missing", "features_unreachable")
FEATURE_STATUSES = ("present", "missing", "expired", "unreachable")


class PredictorMetrics:
    """Counters and histograms of one version; made before the first request, so that every series starts at 0."""

    def __init__(self, model: str, version: str, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._arm = {"model": model, "version": version}
        self._requests = counter(names.REQUESTS, self.registry)
        self._codes = {code: self._requests.labels(code=code, **self._arm) for code in CODES}
        self.latency = histogram(names.LATENCY, self.registry).labels(**self._arm)
        self.predictions = counter(names.PREDICTIONS, self.registry).labels(**self._arm)
        self.scores = histogram(names.SCORES, self.registry).labels(**self._arm)
        fallbacks = counter(names.FALLBACKS, self.registry)
        self.fallbacks = {reason: fallbacks.labels(reason=reason, **self._arm) for reason in FALLBACK_REASONS}
        self.empty = counter(names.EMPTY, self.registry).labels(**self._arm)
        self._feature_age = gauge(names.FEATURE_AGE, self.registry)
        self.feature_read = histogram(names.FEATURE_READ, self.registry).labels(**self._arm)
        self._feature_status = counter(names.FEATURE_STATUS, self.registry)
        self.events_dropped = counter(names.EVENTS_DROPPED, self.registry).labels(**self._arm)
        self.in_flight = gauge(names.IN_FLIGHT, self.registry).labels(**self._arm)
        self._bundle = gauge(names.BUNDLE_INFO, self.registry)
        ProcessCollector(registry=self.registry)

    def bundle_loaded(self, manifest: BundleManifest) -> None:
        """Shows which bundle is loaded and makes the series of the views that it reads."""
        self._bundle.labels(sha256=bundle_digest(manifest), family=manifest.family, **self._arm).set(1)
        for view in manifest.views:
            self._feature_age.labels(view=view.name, **self._arm)
            for status in FEATURE_STATUSES:
                self._feature_status.labels(view=view.name, status=status, **self._arm)

    def answered(self, code: int, seconds: float) -> None:
        """Counts one finished request."""
        series = self._codes.get(str(code))
        if series is None:
            series = self._codes.setdefault(str(code), self._requests.labels(code=str(code), **self._arm))
        series.inc()
        self.latency.observe(seconds)

    def features_read(self, view: str, counts: Sequence[int], oldest_seconds: float | None) -> None:
        """Counts the rows of one view by status, in the order of FEATURE_STATUSES, and shows the oldest row's age."""
        for status, count in zip(FEATURE_STATUSES, counts, strict=True):
            if count:
                self._feature_status.labels(view=view, status=status, **self._arm).inc(count)
        if oldest_seconds is not None:
            self._feature_age.labels(view=view, **self._arm).set(oldest_seconds)
