"""Readings into windows: each span of time once, by its end, and only with numbers that can be true."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from slipway.serving.rollout.core.observations import WindowCount, WindowHistogram, WindowMoments

LARGEST_WINDOW = 10_000_000
CLOCK_SKEW = 60.0
_ROUNDING = 1e-6
"""Share of n by which sums of floating-point counters may miss what they should be."""


@dataclass(frozen=True)
class Events:
    """Events out of n."""

    n: int
    events: int


@dataclass(frozen=True)
class Moments:
    """Sum and sum of squares of n values in [0, 1]."""

    n: int
    total: float
    squares: float


@dataclass(frozen=True)
class Buckets:
    """n values by bucket."""

    n: int
    counts: tuple[int, ...]


class _Reading(Protocol):
    @property
    def arm(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


R = TypeVar("R", bound=_Reading)
W = TypeVar("W", Events, Moments, Buckets)
Windows = list[tuple[tuple[float, float], dict[str, W]]]
"""((start, end), arm -> what was counted), by end."""


def events_of(readings: Iterable[WindowCount], now: float) -> tuple[Windows[Events], str | None]:
    """Returns the windows of counts, and what was wrong with those that were left out."""
    return _windows(readings, now, _wrong_count, lambda r: Events(round(r.n), round(r.events)))


def moments_of(readings: Iterable[WindowMoments], now: float) -> tuple[Windows[Moments], str | None]:
    """Returns the windows of sums, and what was wrong with those that were left out."""
    return _windows(readings, now, _wrong_moments, _moments)


def buckets_of(readings: Iterable[WindowHistogram], now: float) -> tuple[Windows[Buckets], str | None]:
    """Returns the windows of histograms, and what was wrong with those that were left out."""
    return _windows(readings, now, _wrong_histogram, _buckets)


def _windows(
    readings: Iterable[R], now: float, wrong: Callable[[R], str | None], content: Callable[[R], W]
) -> tuple[Windows[W], str | None]:
    found: dict[tuple[float, float], dict[str, W]] = {}
    broken: set[tuple[float, float]] = set()
    error = None
    for reading in readings:
        span = (reading.start, reading.end)
        problem = _wrong_span(reading, now) or wrong(reading)
        if problem is None:
            window = content(reading)
            if found.setdefault(span, {}).setdefault(reading.arm, window) != window:
                problem = "two readings of one window differ"
        if problem is not None:
            error = f"{reading.arm}: {problem}"
            broken.add(span)
    usable = [(span, arms) for span, arms in found.items() if span not in broken]
    return sorted(usable, key=lambda item: (item[0][1], item[0][0])), error


def _wrong_span(reading: _Reading, now: float) -> str | None:
    if not _are_numbers(reading.start, reading.end):
        return f"the time of a reading is not a number (from {reading.start} to {reading.end})"
    if reading.end <= reading.start:
        return "a window ends before it begins"
    return "a window ends in the future" if reading.end > now + CLOCK_SKEW else None


def _wrong_count(count: WindowCount) -> str | None:
    if not _are_numbers(count.events, count.n):
        return f"a reading is not a number (events {count.events}, n {count.n})"
    if count.events < 0 or count.n < 0:
        return f"a count is negative (events {count.events:g}, n {count.n:g})"
    if count.events > count.n:
        return f"more events than requests ({count.events:g} of {count.n:g})"
    if not (_is_whole(count.events) and _is_whole(count.n)):
        return f"a count is not whole ({count.events:g} of {count.n:g}); counts must be exact differences of counters"
    return _too_large(count.n)


def _wrong_moments(moments: WindowMoments) -> str | None:
    n, total, squares = moments.n, moments.total, moments.squares
    if not _are_numbers(n, total, squares):
        return f"a reading is not a number (n {n}, sum {total}, squares {squares})"
    if n < 0 or not _is_whole(n):
        return f"a count is negative or not whole ({n:g})"
    room = _ROUNDING * (n + 1)
    if not -room <= squares <= total + room or total > n + room:
        return f"values lie outside their bounds (sum {total:g} and squares {squares:g} of {n:g} values from 0 to 1)"
    if total * total > n * squares + room * (n + 1):
        return f"no {n:g} values have the sum {total:g} and the squares {squares:g}"
    return _too_large(n)


def _wrong_histogram(histogram: WindowHistogram) -> str | None:
    counts = histogram.counts
    if not _are_numbers(*counts):
        return "a bucket is not a number"
    if any(count < 0 or not _is_whole(count) for count in counts):
        return "the count of a bucket is negative or not whole; counts must be exact differences of counters"
    return "a histogram has fewer than two buckets" if len(counts) < 2 else _too_large(sum(counts))


def _moments(moments: WindowMoments) -> Moments:
    n = round(moments.n)
    total = min(max(moments.total, 0.0), float(n))
    return Moments(n, total, min(max(moments.squares, 0.0), total))


def _buckets(histogram: WindowHistogram) -> Buckets:
    counts = tuple(round(count) for count in histogram.counts)
    return Buckets(sum(counts), counts)


def _too_large(n: float) -> str | None:
    if n <= LARGEST_WINDOW:
        return None
    return f"a window holds {n:.3g} requests, more than {LARGEST_WINDOW:,}; read more often"


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) <= 1e-6


def _are_numbers(*numbers: object) -> bool:
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
