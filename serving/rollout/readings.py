"""Exact counts from Prometheus: raw counters at one moment, subtracted series by series.

`increase()` extrapolates and misses the first value of a series, so counts come from raw samples instead: a range
selector gives each series' last sample with its own time; the difference to the sample kept from the last reading is
the count. A series that was not there before starts at 0; a smaller value is a restarted process, and every series of
that process which the same count is made of counts from 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import httpx

from slipway.contracts import metrics
from slipway.contracts.errors import ServiceError
from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, Guardrail
from slipway.serving.rollout.core.types import WindowCount, WindowHistogram, WindowMoments

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
        if self.minus_metric is None:
            return selector
        return f"{selector} - ignoring(le) {self.minus_metric}{{{self.minus_matchers}}}"

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

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Everything that is read."""
        return self.events, self.total

    @property
    def query(self) -> str:
        """What is read, as a person would paste it into Prometheus."""
        return f"{self.events.query} out of {self.total.query}"


@dataclass(frozen=True)
class MomentsQuery:
    """What to add up for one guardrail and one arm: values, their squares and their number, scaled by their maximum."""

    guardrail: str
    arm: str
    values: Counter
    squares: Counter
    n: Counter
    maximum: float

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Everything that is read."""
        return self.values, self.squares, self.n

    @property
    def query(self) -> str:
        """What is read, as a person would paste it into Prometheus."""
        return f"{self.values.query} out of {self.n.query}, squares {self.squares.query}"


@dataclass(frozen=True)
class HistogramQuery:
    """Which histogram to read for one guardrail and one arm; `buckets` picks its cumulative bucket series."""

    guardrail: str
    arm: str
    buckets: Counter

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Everything that is read."""
        return (self.buckets,)

    @property
    def query(self) -> str:
        """What is read, as a person would paste it into Prometheus."""
        return self.buckets.query


Query = CountQuery | MomentsQuery | HistogramQuery


@dataclass(frozen=True)
class Count:
    """Events out of total for one guardrail and one arm, in the time since the last reading."""

    guardrail: str
    arm: str
    events: float
    total: float


@dataclass(frozen=True)
class MomentSums:
    """Sum and sum of squares of n values scaled to [0, 1], in the time since the last reading."""

    guardrail: str
    arm: str
    n: float
    total: float
    squares: float


@dataclass(frozen=True)
class BucketCounts:
    """Values by bucket (not cumulative, by upper bound, the last one open), in the time since the last reading."""

    guardrail: str
    arm: str
    counts: tuple[float, ...]


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


@dataclass(frozen=True)
class Reading:
    """What was read at one moment.

    Args:
        snapshot: What the next reading is subtracted from.
        newest: Time of the newest sample, None without any.
        counts, moments, histograms: What happened since the snapshot before; nothing at the first reading.
    """

    snapshot: Snapshot
    newest: float | None
    counts: tuple[Count, ...] = ()
    moments: tuple[MomentSums, ...] = ()
    histograms: tuple[BucketCounts, ...] = ()


class Windows(NamedTuple):
    """A reading as the core takes it in."""

    counts: tuple[WindowCount, ...] = ()
    moments: tuple[WindowMoments, ...] = ()
    histograms: tuple[WindowHistogram, ...] = ()


def windows_of(reading: Reading, start: float, end: float) -> Windows:
    """Returns what was read as windows from `start` to `end`, Unix seconds."""
    return Windows(
        tuple(WindowCount(c.guardrail, c.arm, start, end, c.events, c.total) for c in reading.counts),
        tuple(WindowMoments(m.guardrail, m.arm, start, end, m.n, m.total, m.squares) for m in reading.moments),
        tuple(WindowHistogram(h.guardrail, h.arm, start, end, h.counts) for h in reading.histograms),
    )


def queries_for(
    guardrails: Sequence[Guardrail],
    arms: Sequence[ArmTarget],
    model: str,
    assignment: Literal["request", "user"] = "request",
) -> tuple[Query, ...]:
    """Returns what to read for each guardrail and arm, and how much each arm was given.

    Errors and latency are counted at the gateway, since a predictor that is gone counts nothing.

    Args:
        guardrails: Of the policy.
        arms: The versions that are compared.
        model: Their model.
        assignment: Whether each request is drawn anew or a user stays with a version. In the latter case the split is
            judged by new users: requests of one user go to one version together, and vary by far more.
    """
    queries: list[Query] = []
    for arm in arms:
        at_gateway = f'service="{arm.arm}@file"'
        by_version = f'model="{model}",version="{arm.version}"'
        given = (
            Counter(metrics.NEW_USERS.name, by_version)
            if assignment == "user"
            else Counter(metrics.GATEWAY_REQUESTS.name, at_gateway)
        )
        queries.append(CountQuery(ASSIGNMENT, arm.arm, given, given))
        for guardrail in guardrails:
            queries.extend(_query(part, arm.arm, at_gateway, by_version) for part in guardrail.parts())
    return tuple(queries)


def _query(guardrail: Guardrail, arm: str, at_gateway: str, by_version: str) -> Query:
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
            of_users = guardrail.unit == "user"
            clicked = metrics.JOINED_CLICKED_USERS if of_users else metrics.JOINED_CLICKED
            joined = metrics.JOINED_USERS if of_users else metrics.JOINED_REQUESTS
            return CountQuery(guardrail.name, arm, Counter(clicked.name, by_version), Counter(joined.name, by_version))
        case "counters":
            assert guardrail.counters is not None
            events, total_name = guardrail.counters.events, guardrail.counters.total
            return CountQuery(guardrail.name, arm, Counter(events, by_version), Counter(total_name, by_version))
        case "mean":
            assert guardrail.maximum is not None
            of_users, of_type = guardrail.unit == "user", f'{by_version},type="{guardrail.value}"'
            values = metrics.JOINED_USER_VALUE if of_users else metrics.JOINED_VALUE
            squares = metrics.JOINED_USER_VALUE_SQUARES if of_users else metrics.JOINED_VALUE_SQUARES
            joined = metrics.JOINED_USERS if of_users else metrics.JOINED_REQUESTS
            return MomentsQuery(
                guardrail.name,
                arm,
                Counter(values.name, of_type),
                Counter(squares.name, of_type),
                Counter(joined.name, by_version),
                guardrail.maximum,
            )
        case "scores":
            return HistogramQuery(guardrail.name, arm, Counter(f"{metrics.SCORES.name}_bucket", by_version))


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

    def read(self, queries: Sequence[Query], previous: Snapshot, at: float) -> Reading:
        """Reads every counter as of `at` and subtracts the previous reading.

        Args:
            queries: What to count.
            previous: The last snapshot; an empty one makes this reading the baseline, with no counts.
            at: Unix seconds of the evaluation, the same for all.

        Raises:
            ServiceError: Prometheus cannot be reached or refuses a query.
        """
        selectors = sorted({selector for query in queries for selector in _selectors(query)})
        now = {selector: self._samples(selector, at) for selector in selectors}
        newest = max((moment for samples in now.values() for moment, _ in samples.values()), default=None)
        merged = {selector: dict(previous.series.get(selector, {})) | dict(now[selector]) for selector in selectors}
        snapshot = Snapshot(at=at, series=merged)
        if not previous.series:
            return Reading(snapshot, newest)
        counts, moments, histograms = [], [], []
        for query in queries:
            grown = _Growth.of(query, previous.series, now)
            match query:
                case CountQuery():
                    events, total = grown.sum(query.events), grown.sum(query.total)
                    counts.append(Count(query.guardrail, query.arm, events, total))
                case MomentsQuery(values=values, squares=squares, n=n, maximum=maximum):
                    scaled = grown.sum(values) / maximum, grown.sum(squares) / maximum**2
                    moments.append(MomentSums(query.guardrail, query.arm, grown.sum(n), *scaled))
                case HistogramQuery(buckets=buckets):
                    histograms.append(BucketCounts(query.guardrail, query.arm, grown.buckets(buckets)))
        readable = tuple(histogram for histogram in histograms if histogram.counts)
        return Reading(snapshot, newest, tuple(counts), tuple(moments), readable)

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


def _selectors(query: Query) -> list[str]:
    return [selector for counter in query.counters for selector, _ in counter.selectors]


@dataclass(frozen=True)
class _Growth:
    """How much each series of one query has grown: selector -> labels -> growth."""

    series: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, query: Query, before: Mapping[str, Series], now: Mapping[str, Series]) -> _Growth:
        """Subtracts; a process of which one series has become smaller has restarted, and all of its series with it.

        All but those that its last scrape no longer had: they end with its earlier life.
        """
        selectors = _selectors(query)
        scraped: dict[tuple[str, str], float] = {}
        restarted = set()
        for selector in selectors:
            for labels, (moment, value) in now[selector].items():
                process = _process(labels)
                scraped[process] = max(moment, scraped.get(process, moment))
                if value < _value(before, selector, labels):
                    restarted.add(process)

        def growth(selector: str, labels: str, moment: float, value: float) -> float:
            process = _process(labels)
            if process in restarted and moment == scraped[process]:
                return value
            return value - _value(before, selector, labels)

        return cls(
            {
                selector: {labels: growth(selector, labels, *sample) for labels, sample in now[selector].items()}
                for selector in selectors
            }
        )

    def sum(self, counter: Counter) -> float:
        """Returns the growth of a counter over all of its series."""
        return sum(sign * sum(self.series[selector].values()) for selector, sign in counter.selectors)

    def buckets(self, counter: Counter) -> tuple[float, ...]:
        """Returns the growth of each bucket of a histogram over all processes; nothing where no bucket was read."""
        ((selector, _),) = counter.selectors
        cumulative: dict[float, float] = {}
        for labels, growth in self.series[selector].items():
            bound = float(json.loads(labels)["le"])
            cumulative[bound] = cumulative.get(bound, 0.0) + growth
        ordered = [cumulative[bound] for bound in sorted(cumulative)]
        return tuple(here - below for below, here in zip([0.0, *ordered], ordered, strict=False))


def _value(series: Mapping[str, Series], selector: str, labels: str) -> float:
    return series.get(selector, {}).get(labels, (0.0, 0.0))[1]


def _process(labels: str) -> tuple[str, str]:
    """Returns what tells the process of a series from others."""
    found = json.loads(labels)
    return found.get("job", ""), found.get("instance", "")
