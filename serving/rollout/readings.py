"""Exact counts from Prometheus: raw counters at one moment, subtracted series by series.

`increase()` extrapolates and misses the first value of a series, so counts come from raw samples instead: a range
selector gives each series' last sample with its own time; the difference to the sample kept from the last reading is
the count. A series that was not there before starts at 0; a smaller value is a restarted process and counts from 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from slipway.contracts import metrics
from slipway.contracts.errors import ServiceError
from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, Guardrail

Series = Mapping[str, tuple[float, float]]
"""Canonical labels of a series -> (time of its sample in Unix seconds, value)."""


@dataclass(frozen=True)
class Counter:
    """A sum of counter series: the metric and the label matchers that pick them, for one arm.

    `minus` are matchers of series to subtract, as for a cumulative histogram bucket.
    """

    metric: str
    matchers: str
    minus_metric: str | None = None
    minus_matchers: str = ""

    @property
    def query(self) -> str:
        """The PromQL selector, as a person would paste it into Prometheus."""
        selector = f"{self.metric}{{{self.matchers}}}"
        return selector if self.minus_metric is None else f"{selector} - {self.minus_metric}{{{self.minus_matchers}}}"

    @property
    def selectors(self) -> tuple[tuple[str, int], ...]:
        """(selector, sign) of each part."""
        plus = ((f"{self.metric}{{{self.matchers}}}", 1),)
        minus = () if self.minus_metric is None else ((f"{self.minus_metric}{{{self.minus_matchers}}}", -1),)
        return plus + minus


@dataclass(frozen=True)
class CountQuery:
    """What to count for one guardrail and one arm: events out of total."""

    guardrail: str
    arm: str
    events: Counter
    total: Counter


@dataclass(frozen=True)
class Count:
    """Events out of total for one guardrail and one arm, in the time since the last reading."""

    guardrail: str
    arm: str
    events: float
    total: float


@dataclass
class Snapshot:
    """The samples that the next reading is subtracted from. Plain data, so that it survives a restart."""

    at: float = 0.0
    series: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the snapshot as JSON-ready data."""
        return {"at": self.at, "series": self.series}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Snapshot:
        """Reads what `to_dict` gave."""
        series = {
            selector: {labels: (float(sample[0]), float(sample[1])) for labels, sample in samples.items()}
            for selector, samples in content["series"].items()
        }
        return cls(float(content["at"]), series)


def queries_for(guardrails: Sequence[Guardrail], arms: Sequence[ArmTarget], model: str) -> tuple[CountQuery, ...]:
    """Returns the counts to read for each guardrail and arm, and the requests that each arm was given.

    Errors and latency are counted at the gateway, since a predictor that is gone counts nothing.
    """
    queries = []
    for arm in arms:
        at_gateway = f'service="{arm.arm}@file"'
        requests = Counter(metrics.GATEWAY_REQUESTS.name, at_gateway)
        queries.append(CountQuery(ASSIGNMENT, arm.arm, requests, requests))
        by_version = f'model="{model}",version="{arm.version}"'
        for guardrail in guardrails:
            queries.append(_query(guardrail, arm.arm, at_gateway, by_version))
    return tuple(queries)


def _query(guardrail: Guardrail, arm: str, at_gateway: str, by_version: str) -> CountQuery:
    requests = Counter(metrics.GATEWAY_REQUESTS.name, at_gateway)
    predictions = Counter(metrics.PREDICTIONS.name, by_version)
    match guardrail.kind:
        case "errors":
            errors = Counter(metrics.GATEWAY_REQUESTS.name, f'{at_gateway},code=~"5.."')
            return CountQuery(guardrail.name, arm, errors, requests)
        case "latency":
            histogram = metrics.GATEWAY_LATENCY.name
            total = Counter(f"{histogram}_count", at_gateway)
            bound = f'{at_gateway},le="{guardrail.objective:g}"'
            slow = Counter(f"{histogram}_count", at_gateway, f"{histogram}_bucket", bound)
            return CountQuery(guardrail.name, arm, slow, total)
        case "fallbacks":
            return CountQuery(guardrail.name, arm, Counter(metrics.FALLBACKS.name, by_version), predictions)
        case "empty":
            return CountQuery(guardrail.name, arm, Counter(metrics.EMPTY.name, by_version), predictions)
        case "clicks":
            clicked = Counter(metrics.JOINED_CLICKED.name, by_version)
            return CountQuery(guardrail.name, arm, clicked, Counter(metrics.JOINED_REQUESTS.name, by_version))
        case "counters":
            assert guardrail.counters is not None
            events, total_name = guardrail.counters.events, guardrail.counters.total
            return CountQuery(guardrail.name, arm, Counter(events, by_version), Counter(total_name, by_version))


class CounterReader:
    """Reads counts from one Prometheus.

    Args:
        url: Base address of the Prometheus.
        lookback: Seconds within which a series must have been scraped to count as alive.
        timeout: Seconds that a query may take.
    """

    def __init__(self, url: str, *, lookback: float = 15.0, timeout: float = 3.0) -> None:
        self.url = url.rstrip("/")
        self._lookback = lookback
        self._client = httpx.Client(timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def read(
        self, queries: Sequence[CountQuery], previous: Snapshot, at: float
    ) -> tuple[Snapshot, tuple[Count, ...], float | None]:
        """Reads every counter as of `at` and subtracts the previous reading.

        Args:
            queries: What to count.
            previous: The last snapshot; an empty one makes this reading the baseline, with no counts.
            at: Unix seconds of the evaluation, the same for all.

        Returns:
            The new snapshot; the counts of the time between; and the time of the newest sample, None without any.

        Raises:
            ServiceError: Prometheus cannot be reached or refuses a query.
        """
        selectors = sorted({selector for query in queries for counter in (query.events, query.total)
                            for selector, _ in counter.selectors})  # fmt: skip
        now = {selector: self._samples(selector, at) for selector in selectors}
        newest = max((moment for samples in now.values() for moment, _ in samples.values()), default=None)
        merged = {selector: dict(previous.series.get(selector, {})) | dict(now[selector]) for selector in selectors}
        snapshot = Snapshot(at=at, series=merged)
        if not previous.series:
            return snapshot, (), newest
        grown = {selector: _growth(previous.series.get(selector, {}), now[selector]) for selector in selectors}
        counts = tuple(
            Count(query.guardrail, query.arm, _signed(query.events, grown), _signed(query.total, grown))
            for query in queries
        )
        return snapshot, counts, newest

    def _samples(self, selector: str, at: float) -> dict[str, tuple[float, float]]:
        query = f"{selector}[{self._lookback * 1000:.0f}ms]"
        try:
            response = self._client.get(f"{self.url}/api/v1/query", params={"query": query, "time": f"{at:.3f}"})
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(
                f"Prometheus does not answer ({type(error).__name__})", where=self.url, remedy="Check: slipway status"
            ) from error
        if answer.get("status") != "success":
            raise ServiceError(f"Prometheus refused {query!r}: {answer.get('error')}", where=self.url)
        return {
            json.dumps(entry["metric"], sort_keys=True): (float(entry["values"][-1][0]), float(entry["values"][-1][1]))
            for entry in answer["data"]["result"]
        }


def _growth(before: Series, now: Series) -> float:
    total = 0.0
    for labels, (_, value) in now.items():
        earlier = before.get(labels, (0.0, 0.0))[1]
        total += value - earlier if value >= earlier else value
    return total


def _signed(counter: Counter, grown: Mapping[str, float]) -> float:
    return sum(sign * grown[selector] for selector, sign in counter.selectors)
