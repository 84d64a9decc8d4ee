"""Pods that are scraped one after the other are read as of one moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest

from slipway.contracts.rollout import ArmTarget, Guardrail
from slipway.serving.rollout.aligned_readings import AlignedReader
from slipway.serving.rollout.queries import at_predictors, queries_for
from slipway.serving.rollout.readings import Reading, Sample, Snapshot

ARMS = tuple(ArmTarget(arm=f"films-v{version}", version=version) for version in ("1", "2"))
ERRORS = Guardrail.model_validate({"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5}})
QUERIES = queries_for((ERRORS,), ARMS, "films", source=at_predictors("prod"))
INTERVAL = 2.0


class Pods(AlignedReader):
    """A reader of made-up pods: pod -> (version, offset of its scrapes, first and last moment of its life).

    Each pod answers ten requests a second, none of them an error.
    """

    def __init__(self, pods: Mapping[str, tuple[str, float, float, float]]) -> None:
        super().__init__("http://nobody", lookback=30.0)
        self.pods = dict(pods)

    def _ranges(self, selector: str, at: float) -> dict[str, Sequence[Sample]]:
        found: dict[str, Sequence[Sample]] = {}
        for pod, (version, offset, born, dies) in self.pods.items():
            if f'version="{version}"' not in selector or "code=~" in selector:
                continue
            moments = [offset + INTERVAL * number for number in range(1000)]
            scraped = [m for m in moments if at - 30.0 < m <= at and born < m <= dies]
            if scraped:
                labels = f'{{"code": "200", "instance": "{pod}", "job": "pods", "version": "{version}"}}'
                found[labels] = [(moment, 10 * (moment - born)) for moment in scraped]
        return found


def read(reader: Pods, looks: Sequence[float]) -> Iterator[tuple[float, Reading]]:
    """Yields the readings with something new, as the controller takes them."""
    snapshot, end = Snapshot(), float("-inf")
    for at in looks:
        reading = reader.read(QUERIES, snapshot, at)
        if reading.newest is None or reading.newest <= end:
            continue
        first = not snapshot.series
        snapshot, end = reading.snapshot, reading.newest
        if not first:
            yield at, reading


def totals(reading: Reading) -> dict[str, float]:
    return {count.arm: count.total for count in reading.counts if count.guardrail == "errors"}


@pytest.mark.parametrize("offsets", [(0.1, 1.3), (1.3, 0.1), (0.5, 0.5), (0.0, 1.99)])
@pytest.mark.parametrize("pause", [0.5, 1.7, 2.3, 5.0])
def test_both_versions_fill_every_window_with_equally_long_spans(offsets: tuple[float, float], pause: float) -> None:
    reader = Pods({"a": ("1", offsets[0], 0.0, 900.0), "b": ("2", offsets[1], 0.0, 900.0)})
    windows = [totals(reading) for _, reading in read(reader, [100 + pause * look for look in range(60)])]
    assert len(windows) >= 60 * pause / max(pause + INTERVAL, 2 * INTERVAL) - 1
    for window in windows:
        assert window["films-v1"] == pytest.approx(window["films-v2"])
        assert window["films-v1"] > 0


def test_no_request_is_lost_or_counted_twice() -> None:
    reader = Pods({"a": ("1", 0.1, 0.0, 900.0), "b": ("2", 1.3, 0.0, 900.0)})
    readings = list(read(reader, [100 + 0.5 * look for look in range(100)]))
    counted = sum(totals(reading)["films-v2"] for _, reading in readings)
    first, last = readings[0][1], readings[-1][1]
    assert first.began is not None
    assert counted == pytest.approx(
        10 * (last.snapshot.series[_selector(last)][_labels(last)][0] - first.began), abs=21
    )


def _selector(reading: Reading) -> str:
    return next(name for name in reading.snapshot.series if 'version="2"' in name and "code=~" not in name)


def _labels(reading: Reading) -> str:
    return next(iter(reading.snapshot.series[_selector(reading)]))


def test_a_pod_that_is_gone_is_waited_for_no_longer_than_its_scrapes_take() -> None:
    reader = Pods({"a": ("1", 0.1, 0.0, 900.0), "b": ("2", 1.3, 0.0, 900.0), "dies": ("1", 0.7, 0.0, 110.0)})
    looks = [at for at, _ in read(reader, [100 + 0.5 * look for look in range(60)])]
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert max(pauses) <= 3.5 * INTERVAL
    assert looks[-1] > 126


def test_the_anchor_may_die() -> None:
    reader = Pods({"a": ("1", 0.1, 0.0, 110.0), "b": ("2", 1.3, 0.0, 900.0), "c": ("1", 0.7, 0.0, 900.0)})
    looks = [at for at, _ in read(reader, [100 + 0.5 * look for look in range(60)])]
    assert looks[-1] > 126


def test_a_new_pod_counts_from_its_beginning() -> None:
    reader = Pods({"a": ("1", 0.1, 0.0, 900.0), "b": ("2", 1.3, 104.0, 900.0)})
    readings = [totals(reading) for _, reading in read(reader, [100 + 0.5 * look for look in range(60)])]
    assert sum(window["films-v2"] for window in readings) == pytest.approx(10 * (129 - 104), abs=30)


def test_a_window_says_how_far_back_its_oldest_sample_reaches() -> None:
    reader = Pods({"a": ("1", 0.1, 0.0, 900.0), "b": ("2", 1.3, 0.0, 900.0)})
    for _, reading in read(reader, [100 + 0.5 * look for look in range(20)]):
        assert reading.began is not None
        assert reading.newest is not None
        # The anchor's own span is one interval; the other pod was scraped up to one more before.
        assert INTERVAL < reading.newest - reading.began <= 2 * INTERVAL
