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
from typing import Any, NamedTuple

import httpx

from slipway.contracts.errors import ServiceError
from slipway.serving.rollout.core.observations import WindowCount, WindowHistogram, WindowMoments
from slipway.serving.rollout.queries import (
    Counter,
    CountQuery,
    HistogramQuery,
    MomentsQuery,
    Query,
    ResourceQuery,
)
from slipway.serving.rollout.resources import ResourceUse

Sample = tuple[float, float]
"""Time of a sample in Unix seconds, and its value."""

Series = Mapping[str, Sample]
"""Canonical labels of a series -> its sample."""

Ranges = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Selector -> canonical labels of a series -> its samples, oldest first."""


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
        counts, moments, histograms, resources: What happened since the snapshot before; nothing at the first reading.
        began: Time of the oldest sample that was subtracted, where processes are scraped one after the other.
    """

    snapshot: Snapshot
    newest: float | None
    counts: tuple[Count, ...] = ()
    moments: tuple[MomentSums, ...] = ()
    histograms: tuple[BucketCounts, ...] = ()
    resources: tuple[ResourceUse, ...] = ()
    began: float | None = None


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

    def read(self, queries: Sequence[Query | ResourceQuery], previous: Snapshot, at: float) -> Reading:
        """Reads every counter as of `at` and subtracts the previous reading.

        Args:
            queries: What to count.
            previous: The last snapshot; an empty one makes this reading the baseline, with no counts.
            at: Unix seconds of the evaluation, the same for all.

        Raises:
            ServiceError: Prometheus cannot be reached or refuses a query.
        """
        selectors = sorted({selector for query in queries for selector in _selectors(query)})
        ranges = {selector: self._ranges(selector, at) for selector in selectors}
        # A scrape that was stored in the middle of all this is in some answers and not in others: counts out of numbers
        # of different moments. What was read before it is read again; a scrape is seen whole or not at all.
        ranges |= {selector: self._ranges(selector, at) for selector in _behind(_last(ranges))}
        chosen = self._chosen(ranges, previous)
        if chosen is None:
            return Reading(previous, None)
        now, began = chosen
        # What things cost is no evidence, and must not make windows of its own.
        judged = {name for query in queries if not isinstance(query, ResourceQuery) for name in _selectors(query)}
        newest = max((moment for name in judged for moment, _ in now[name].values()), default=None)
        merged = {selector: dict(previous.series.get(selector, {})) | dict(now[selector]) for selector in selectors}
        snapshot = Snapshot(at=at, series=merged)
        if not previous.series:
            return Reading(snapshot, newest)
        counts, moments, histograms, resources = [], [], [], []
        for query in queries:
            grown = _Growth.of(query, previous.series, now)
            match query:
                case CountQuery():
                    events, total = grown.sum(query.events), grown.sum(query.total)
                    counts.append(Count(query.guardrail, query.arm, events, total))
                case MomentsQuery(values=values, squares=squares, n=n, maximum=maximum):
                    scaled = grown.sum(values) / maximum, grown.sum(squares) / maximum**2
                    moments.append(MomentSums(query.guardrail, query.arm, grown.sum(n), *scaled))
                case ResourceQuery(arm=arm, cpu=cpu, answers=answers, memory=memory):
                    held = [samples[-1][1] for samples in self._ranges(memory, at).values()]
                    resources.append(ResourceUse(arm, grown.sum(answers), grown.sum(cpu), sum(held), len(held)))
                case HistogramQuery(buckets=buckets):
                    histograms.append(BucketCounts(query.guardrail, query.arm, grown.buckets(buckets)))
        readable = tuple(histogram for histogram in histograms if histogram.counts)
        return Reading(snapshot, newest, tuple(counts), tuple(moments), readable, tuple(resources), began)

    def _chosen(
        self,
        ranges: Ranges,
        previous: Snapshot,  # noqa: ARG002 - for readers that wait for a new scrape of everything
    ) -> tuple[dict[str, dict[str, Sample]], float | None] | None:
        """Returns the sample of each series that this reading is about, and the time of the oldest one before it.

        None where there is nothing new to be read yet.
        """
        return _last(ranges), None

    def _ranges(self, selector: str, at: float) -> dict[str, Sequence[Sample]]:
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
            json.dumps(entry["metric"], sort_keys=True): [
                (float(moment), float(text)) for moment, text in entry["values"]
            ]
            for entry in answer["data"]["result"]
        }


def _last(ranges: Ranges) -> dict[str, dict[str, Sample]]:
    return {selector: {labels: found[-1] for labels, found in series.items()} for selector, series in ranges.items()}


def _behind(now: Mapping[str, Series]) -> list[str]:
    """Returns the selectors with an older sample of some process than another selector has of it."""
    newest: dict[str, dict[tuple[str, str], float]] = {}
    latest: dict[tuple[str, str], float] = {}
    for selector, samples in now.items():
        own = newest.setdefault(selector, {})
        for labels, (moment, _) in samples.items():
            process = process_of(labels)
            own[process] = max(moment, own.get(process, moment))
            latest[process] = max(moment, latest.get(process, moment))
    return [
        selector for selector, own in newest.items() if any(moment < latest[process] for process, moment in own.items())
    ]


def _selectors(query: Query | ResourceQuery) -> list[str]:
    return [selector for counter in query.counters for selector, _ in counter.selectors]


@dataclass(frozen=True)
class _Growth:
    """How much each series of one query has grown: selector -> labels -> growth."""

    series: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, query: Query | ResourceQuery, before: Mapping[str, Series], now: Mapping[str, Series]) -> _Growth:
        """Subtracts; a process of which one series has become smaller has restarted, and all of its series with it.

        All but those that its last scrape no longer had: they end with its earlier life.
        """
        selectors = _selectors(query)
        scraped: dict[tuple[str, str], float] = {}
        restarted = set()
        for selector in selectors:
            for labels, (moment, value) in now[selector].items():
                process = process_of(labels)
                scraped[process] = max(moment, scraped.get(process, moment))
                if value < _value(before, selector, labels):
                    restarted.add(process)

        def growth(selector: str, labels: str, moment: float, value: float) -> float:
            process = process_of(labels)
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


def process_of(labels: str) -> tuple[str, str]:
    """Returns what tells the process of a series from others."""
    found = json.loads(labels)
    return found.get("job", ""), found.get("instance", "")
