"""Counts from a real Prometheus: exact differences of raw counters, whatever happens to the series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway.contracts.errors import ServiceError
from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, Guardrail
from slipway.serving.rollout.readings import CounterReader, Snapshot, queries_for

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
    baseline, counts, newest = reader.read(QUERIES, Snapshot(), at)
    assert counts == ()
    assert newest is not None

    # A series that was not there before starts at 0: its first value counts, though increase() would miss it.
    at = prometheus.show(
        page({"films-v1": {"200": 1100, "500": 7}, "films-v2": {"200": 20, "503": 3}},
             {"films-v1": 1090, "films-v2": 18}, {"1": (60, 1000), "2": (4, 19)})
    )  # fmt: skip
    second, counts, _ = reader.read(QUERIES, baseline, at)
    found = {(count.guardrail, count.arm): (count.events, count.total) for count in counts}
    assert found["errors", "films-v1"] == (7, 107)
    assert found["errors", "films-v2"] == (3, 23)
    assert found["slow", "films-v1"] == (7, 107)
    assert found["slow", "films-v2"] == (5, 23)
    assert found["clicks", "films-v2"] == (4, 19)
    assert found[ASSIGNMENT, "films-v2"] == (23, 23)

    # A smaller value is a restarted process; a series that is gone counts nothing.
    at = prometheus.show(page({"films-v1": {"200": 30}}, {"films-v1": 30}, {"1": (61, 1010)}))
    kept = Snapshot.from_dict(second.to_dict())
    _, counts, _ = reader.read(QUERIES, kept, at)
    found = {(count.guardrail, count.arm): (count.events, count.total) for count in counts}
    assert found["errors", "films-v1"] == (0, 30)
    assert found["clicks", "films-v1"] == (1, 10)
    assert found["errors", "films-v2"] == (0, 0)
    reader.close()


def test_a_series_that_comes_back_is_counted_from_where_it_was(prometheus: Prometheus) -> None:
    reader = CounterReader(prometheus.url, lookback=0.5)
    first, _, _ = reader.read(QUERIES, Snapshot(), prometheus.show(page({"films-v2": {"200": 100}})))
    prometheus.show("")
    for _ in range(4):
        at = prometheus.show("")
    gone, counts, _ = reader.read(QUERIES, first, at)
    assert all(count.total == 0 for count in counts)
    _, counts, _ = reader.read(QUERIES, gone, prometheus.show(page({"films-v2": {"200": 130}})))
    assert {count.total for count in counts if count.guardrail == "errors" and count.arm == "films-v2"} == {30}
    reader.close()


def test_no_traffic_is_no_data_and_a_stopped_prometheus_is_an_error(prometheus: Prometheus) -> None:
    reader = CounterReader(prometheus.url)
    _, counts, newest = reader.read(QUERIES, Snapshot(), prometheus.show(""))
    assert (counts, newest) == ((), None)
    prometheus.stop()
    with pytest.raises(ServiceError, match="slipway status"):
        reader.read(QUERIES, Snapshot(), 0.0)
    reader.close()
