"""Exact counts where each pod is scraped at a moment of its own.

Prometheus scrapes every target once an interval, each at its own offset. What all targets showed last would be counts
of spans of different lengths, and a window might hold one version only: no comparison, and a split that looks wrong. So
a reading takes each process as it was at one common moment, the last scrape of an *anchor* process, by its last scrape
until then; and it waits until every process has a new one. Spans are then equally long for all, at most one interval
apart.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping

from slipway.serving.rollout.readings import CounterReader, Ranges, Sample, Snapshot, process_of

Process = tuple[str, str]

_SILENT_AFTER = 2.5
"""Scrape intervals without a sample after which a process is not waited for."""


class AlignedReader(CounterReader):
    """Reads counts of many pods as of common moments; see `CounterReader`."""

    def _chosen(self, ranges: Ranges, previous: Snapshot) -> tuple[dict[str, dict[str, Sample]], float | None] | None:
        scrapes = _scrapes(ranges)
        before = _scraped_before(previous)
        live = _live(scrapes)
        moment = _common_moment(scrapes, live, before)
        if moment is None:
            return None
        chosen: dict[str, dict[str, Sample]] = {}
        for selector, series in ranges.items():
            chosen[selector] = {}
            for labels, samples in series.items():
                until = [sample for sample in samples if sample[0] <= moment]
                if until:
                    chosen[selector][labels] = until[-1]
        began = min((before[process] for process in live if process in before), default=None)
        return chosen, began


def _scrapes(ranges: Ranges) -> dict[Process, list[float]]:
    """Returns the times at which each process was scraped, oldest first."""
    found: dict[Process, set[float]] = {}
    for series in ranges.values():
        for labels, samples in series.items():
            found.setdefault(process_of(labels), set()).update(moment for moment, _ in samples)
    return {process: sorted(moments) for process, moments in found.items()}


def _scraped_before(previous: Snapshot) -> dict[Process, float]:
    found: dict[Process, float] = {}
    for series in previous.series.values():
        for labels, (moment, _) in series.items():
            process = process_of(labels)
            found[process] = max(moment, found.get(process, moment))
    return found


def _live(scrapes: Mapping[Process, list[float]]) -> list[Process]:
    """Returns the processes that are still being scraped, in an order that stays the same."""
    if not scrapes:
        return []
    gaps = [later - earlier for moments in scrapes.values() for earlier, later in itertools.pairwise(moments)]
    newest = max(moments[-1] for moments in scrapes.values())
    # Without two scrapes of anything, nothing is known of the interval.
    patience = _SILENT_AFTER * statistics.median(gaps) if gaps else float("inf")
    return sorted(process for process, moments in scrapes.items() if newest - moments[-1] <= patience)


def _common_moment(
    scrapes: Mapping[Process, list[float]], live: list[Process], before: Mapping[Process, float]
) -> float | None:
    """Returns the moment as of which all are read; None while somebody has not been scraped anew by then."""
    if not live:
        return None
    known = [process for process in live if process in before]
    anchor = known[0] if known else live[0]
    moment = scrapes[anchor][-1]
    for process in known:
        if not any(before[process] < scrape <= moment for scrape in scrapes[process]):
            return None
    return moment
