"""Counts from a real Prometheus: exact differences of raw counters, whatever happens to the series."""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest

from slipway.contracts.errors import ServiceError
from slipway.contracts.events import FeedbackData, RequestSigner, prediction_event
from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, Guardrail
from slipway.serving.capture.app import Collector
from slipway.serving.rollout.queries import queries_for
from slipway.serving.rollout.readings import CounterReader, Reading, Snapshot, windows_of

if TYPE_CHECKING:
    from conftest import Prometheus

pytestmark = pytest.mark.integration

ARMS = (ArmTarget(arm="films-v1", version="1"), ArmTarget(arm="films-v2", version="2"))
GUARDRAILS = tuple(
    Guardrail.model_validate(document)
    for document in (
        {"name": "errors", "kind": "errors", "margin": {"absolute": 0.01}},
        {"name": "slow", "kind": "latency", "objective": 0.1, "margin": {"absolute": 0.01}},
        {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}},
    )
)
QUERIES = queries_for(GUARDRAILS, ARMS, "films")


def counted(reading: Reading) -> dict[tuple[str, str], tuple[float, float]]:
    return {(count.guardrail, count.arm): (count.events, count.total) for count in reading.counts}


def page(
    requests: dict[str, dict[str, int]],
    fast: dict[str, int] | None = None,
    joined: dict[str, tuple[int, int]] | None = None,
) -> str:
    lines = []
    for arm, codes in requests.items():
        for code, count in codes.items():
            lines.append(f'traefik_service_requests_total{{service="{arm}@file",code="{code}",method="POST"}} {count}')
    for arm, count in (fast or {}).items():
        name, labels = "traefik_service_request_duration_seconds", f'service="{arm}@file",code="200"'
        lines.append(f'{name}_bucket{{{labels},le="0.1"}} {count}')
        lines.append(f'{name}_bucket{{{labels},le="+Inf"}} {sum(requests[arm].values())}')
        lines.append(f"{name}_count{{{labels}}} {sum(requests[arm].values())}")
    for version, (clicked, total) in (joined or {}).items():
        labels = f'model="films",version="{version}"'
        lines.append(f"slipway_joined_clicked_requests_total{{{labels}}} {clicked}")
        lines.append(f"slipway_joined_requests_total{{{labels}}} {total}")
    return "\n".join(lines)


def test_counts_are_exact_through_new_series_resets_and_vanished_series(prometheus: Prometheus) -> None:
    reader = CounterReader(prometheus.url, lookback=5.0)
    at = prometheus.show(page({"films-v1": {"200": 1000}}, {"films-v1": 990}, {"1": (50, 900)}))
    baseline = reader.read(QUERIES, Snapshot(), at)
    assert baseline.counts == ()
    assert baseline.newest is not None

    # A series that was not there before starts at 0: its first value counts, though increase() would miss it.
    at = prometheus.show(
        page({"films-v1": {"200": 1100, "500": 7}, "films-v2": {"200": 20, "503": 3}},
             {"films-v1": 1090, "films-v2": 18}, {"1": (60, 1000), "2": (4, 19)})
    )  # fmt: skip
    second = reader.read(QUERIES, baseline.snapshot, at)
    found = counted(second)
    assert found["errors", "films-v1"] == (7, 107)
    assert found["errors", "films-v2"] == (3, 23)
    assert found["slow", "films-v1"] == (7, 107)
    assert found["slow", "films-v2"] == (5, 23)
    assert found["clicks", "films-v2"] == (4, 19)
    assert found[ASSIGNMENT, "films-v2"] == (23, 23)

    # A smaller value is a restarted process; a series that is gone counts nothing.
    at = prometheus.show(page({"films-v1": {"200": 30}}, {"films-v1": 30}, {"1": (61, 1010)}))
    kept = Snapshot.from_dict(second.snapshot.to_dict())
    found = counted(reader.read(QUERIES, kept, at))
    assert found["errors", "films-v1"] == (0, 30)
    assert found["clicks", "films-v1"] == (1, 10)
    assert found["errors", "films-v2"] == (0, 0)
    reader.close()


def test_a_series_that_comes_back_is_counted_from_where_it_was(prometheus: Prometheus) -> None:
    reader = CounterReader(prometheus.url, lookback=0.5)
    first = reader.read(QUERIES, Snapshot(), prometheus.show(page({"films-v2": {"200": 100}}))).snapshot
    prometheus.show("")
    for _ in range(4):
        at = prometheus.show("")
    gone = reader.read(QUERIES, first, at)
    assert all(count.total == 0 for count in gone.counts)
    back = reader.read(QUERIES, gone.snapshot, prometheus.show(page({"films-v2": {"200": 130}})))
    assert counted(back)["errors", "films-v2"] == (0, 30)
    reader.close()


def test_a_scrape_in_the_middle_of_a_reading_is_in_all_of_it(prometheus: Prometheus) -> None:
    reader = CounterReader(prometheus.url, lookback=30.0)
    first = reader.read(QUERIES, Snapshot(), prometheus.show(page({"films-v1": {"200": 10}}, None, {"1": (5, 10)})))
    read, asked = reader._ranges, []

    def read_slowly(selector: str, at: float) -> Any:
        found = read(selector, at)
        asked.append(selector)
        if len(asked) == len(selectors) // 2:
            prometheus.show(page({"films-v1": {"200": 30}}, None, {"1": (25, 30)}))
        return found

    selectors = {selector for query in QUERIES for counter in query.counters for selector, _ in counter.selectors}
    reader._ranges = read_slowly  # type: ignore[method-assign]
    found = counted(reader.read(QUERIES, first.snapshot, time.time() + 20.0))
    assert (found["clicks", "films-v1"], found["errors", "films-v1"]) == ((20, 20), (0, 20))
    assert len(asked) > len(selectors)
    reader.close()


def test_no_traffic_is_no_data_and_a_stopped_prometheus_is_an_error(prometheus: Prometheus) -> None:
    reader = CounterReader(prometheus.url)
    nothing = reader.read(QUERIES, Snapshot(), prometheus.show(""))
    assert (nothing.counts, nothing.newest) == ((), None)
    prometheus.stop()
    with pytest.raises(ServiceError, match="slipway status"):
        reader.read(QUERIES, Snapshot(), 0.0)
    reader.close()


def users_page(version: str, joined: tuple[int, int], clicked: tuple[int, int], values: tuple[float, float]) -> str:
    """Returns what a collector shows: (requests, users) joined and clicked, and (sum, squares) of seconds of users."""
    labels = f'model="films",version="{version}"'
    return "\n".join(
        (
            f"slipway_joined_requests_total{{{labels}}} {joined[0]}",
            f"slipway_joined_users_total{{{labels}}} {joined[1]}",
            f"slipway_new_users_total{{{labels}}} {joined[1] + 2}",
            f"slipway_joined_clicked_requests_total{{{labels}}} {clicked[0]}",
            f"slipway_joined_clicked_users_total{{{labels}}} {clicked[1]}",
            f'slipway_joined_user_value_total{{{labels},type="watch"}} {values[0]}',
            f'slipway_joined_user_value_squares_total{{{labels},type="watch"}} {values[1]}',
        )
    )


def scores_page(version: str, instances: list[list[int]]) -> str:
    """Returns the cumulative buckets of a version's processes, given what lies in each bucket."""
    lines = []
    for number, counts in enumerate(instances):
        for index, bound in enumerate(("0", "0.5", "+Inf")):
            labels = f'model="films",version="{version}",replica="{number}",le="{bound}"'
            lines.append(f"slipway_scores_bucket{{{labels}}} {sum(counts[: index + 1])}")
    return "\n".join(lines)


def test_users_values_histograms_and_objectives_are_read_as_the_core_takes_them_in(prometheus: Prometheus) -> None:
    guardrails = [
        Guardrail.model_validate(document)
        for document in (
            {"name": "clicks", "kind": "clicks", "unit": "user", "margin": {"odds_ratio": 0.9}},
            {"name": "watch", "kind": "mean", "value": "watch", "maximum": 100, "unit": "user", "direction": "higher",
             "margin": {"absolute": 5}},
            {"name": "scores", "kind": "scores", "margin": {"absolute": 0.2}},
            {"name": "slow", "kind": "latency", "objectives": [0.1, 0.25], "margin": {"odds_ratio": 1.5}},
        )
    ]  # fmt: skip
    queries = queries_for(guardrails, ARMS[1:], "films", "user")
    reader = CounterReader(prometheus.url, lookback=5.0)
    one = "\n".join((users_page("2", (50, 20), (9, 4), (400.0, 9000.0)), scores_page("2", [[1, 2, 3], [0, 1, 0]])))
    first = reader.read(queries, Snapshot(), prometheus.show(one))
    two = "\n".join((users_page("2", (90, 30), (20, 6), (900.0, 29_000.0)), scores_page("2", [[2, 2, 5], [0, 4, 1]])))
    reading = reader.read(queries, first.snapshot, prometheus.show(two))
    windows = windows_of(reading, 10.0, 12.0)
    counts = {count.guardrail: (count.events, count.n) for count in windows.counts}
    assert counts["clicks"] == (2, 10)
    assert counts[ASSIGNMENT] == (10, 10)
    assert {"slow@0.1", "slow@0.25"} <= set(counts)
    (watch,) = windows.moments
    assert (watch.n, watch.total, watch.squares) == (10, pytest.approx(5.0), pytest.approx(2.0))
    (scores,) = windows.histograms
    assert (scores.counts, scores.start, scores.end) == ((1, 3, 3), 10.0, 12.0)
    assert "slipway_joined_user_value_total" in queries[2].query
    reader.close()


def test_a_restarted_process_counts_from_zero_in_all_of_its_series(prometheus: Prometheus) -> None:
    guardrail = Guardrail.model_validate({"name": "scores", "kind": "scores", "margin": {"absolute": 0.2}})
    queries = queries_for((guardrail,), ARMS[1:], "films")
    reader = CounterReader(prometheus.url, lookback=5.0)
    first = reader.read(queries, Snapshot(), prometheus.show(scores_page("2", [[2, 100, 100]])))
    # The lowest bucket has grown past what it was; the others show that the process started anew.
    reading = reader.read(queries, first.snapshot, prometheus.show(scores_page("2", [[5, 1, 1]])))
    assert reading.histograms[0].counts == (5, 1, 1)
    reader.close()


def test_what_a_collector_exports_is_what_the_queries_read(prometheus: Prometheus, tmp_path: Path) -> None:
    signer = RequestSigner(b"k" * 32)
    now = [time.time()]
    collector = Collector(
        signer, wait=2.0, expiry=60.0, directory=tmp_path, clock=lambda: now[0], maxima={"watch": 100.0}
    )
    for version in ("1", "2"):
        collector.metrics.know("films", version)
    guardrails = [
        Guardrail.model_validate(document)
        for document in (
            {"name": "users", "kind": "clicks", "unit": "user", "margin": {"odds_ratio": 0.9}},
            {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}},
            {"name": "watch", "kind": "mean", "value": "watch", "maximum": 100, "direction": "higher",
             "margin": {"absolute": 5}},
            {"name": "watch-users", "kind": "mean", "value": "watch", "maximum": 100, "direction": "higher",
             "unit": "user", "margin": {"absolute": 5}},
            {"name": "ndcg", "kind": "ndcg", "at": 10, "margin": {"absolute": 0.05}},
            {"name": "ndcg-watch", "kind": "ndcg", "at": 10, "value": "watch", "maximum": 100, "unit": "user",
             "margin": {"absolute": 0.05}},
            {"name": "auc", "kind": "auc", "margin": {"absolute": 0.05}},
        )
    ]  # fmt: skip
    queries = queries_for(guardrails, ARMS, "films", "user")
    reader = CounterReader(prometheus.url, lookback=5.0)
    first = reader.read(queries, Snapshot(), prometheus.show(generate_latest(collector.metrics.registry).decode()))
    for user, watched in (("ann", 30.0), ("bob", None), ("ann", 50.0)):
        data = {
            "request_id": signer.issue("films", "2", now[0]), "model": "films", "version": "2", "latency_ms": 1.0,
            "entities": [{"user": user, "items": ["b", "a"], "scores": [1.0, 2.0]}],
        }  # fmt: skip
        answer = asyncio.run(events_of(collector, prediction_event(data, seconds=now[0])))
        assert answer == (202, {"accepted": 1, "rejected": 0})
        for kind, value in (("click", None), ("watch", watched)):
            if watched is not None:
                feedback = FeedbackData(request_id=data["request_id"], item="a", type=kind, value=value)
                assert collector.joiner.feedback(feedback, now[0]) == "accepted"
    now[0] += 3
    collector.advance(now[0])
    page_now = generate_latest(collector.metrics.registry).decode()
    windows = windows_of(reader.read(queries, first.snapshot, prometheus.show(page_now)), 0.0, 1.0)
    counts = {(count.guardrail, count.arm): (count.events, count.n) for count in windows.counts}
    assert counts["users", "films-v2"] == (1, 2)
    assert counts["clicks", "films-v2"] == (2, 3)
    assert counts[ASSIGNMENT, "films-v2"] == (2, 2)
    assert counts["users", "films-v1"] == (0, 0)
    sums = {(one.guardrail, one.arm): (one.n, one.total, one.squares) for one in windows.moments}
    assert sums["watch", "films-v2"] == (3, pytest.approx(0.8), pytest.approx(0.34))
    assert sums["watch-users", "films-v2"] == (2, pytest.approx(0.3), pytest.approx(0.09))
    second = 1 / math.log2(3)  # in both answers with feedback, what got it stood in second place, scored highest
    assert sums["ndcg", "films-v2"] == (3, pytest.approx(2 * second), pytest.approx(2 * second**2))
    assert sums["ndcg-watch", "films-v2"] == (2, pytest.approx(second), pytest.approx(second**2))
    assert sums["auc", "films-v2"] == (2, 2, 2)
    assert sums["auc", "films-v1"] == (0, 0, 0)
    reader.close()


async def events_of(collector: Collector, event: dict[str, Any]) -> tuple[int, Any]:
    """Hands an event to a collector as a predictor would over HTTP; returns status and answer."""
    body, sent = json.dumps([event]).encode(), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/events", "headers": [], "query_string": b""}
    await collector(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
