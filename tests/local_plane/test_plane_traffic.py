"""Traffic through a real gateway while predictors come, go and die."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from slipway.contracts.metrics import SMOKE_TEST_HEADER

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("plane_traffic")]

SLOW = {"STANDIN_DELAY": "0.003"}


@pytest.fixture
def two_arms(shared_plane: Any) -> Any:
    """Two arms with half of the traffic each, all processes ready."""
    arms = [shared_plane.arm("1", environment=SLOW), shared_plane.arm("2", environment=SLOW)]
    shared_plane.desire(arms, {"films-v1": 50, "films-v2": 50})
    shared_plane.up()
    return shared_plane


def kill(plane: Any, arm: str, count: int) -> None:
    for replica in plane.observed.arms[arm].replicas[:count]:
        os.kill(replica.pid, signal.SIGKILL)


def attempts(plane: Any, arm: str, code: str) -> int:
    rows = plane.scraped(f'traefik_service_requests_total{{service="{arm}@file",code="{code}"}}')
    return sum(int(float(row["value"][1])) for row in rows)


def test_no_client_sees_killed_predictors_and_the_failed_attempts_count_against_their_arm(two_arms: Any) -> None:
    with two_arms.load(2500) as load:
        two_arms.eventually(lambda: load.sent > 600)
        kill(two_arms, "films-v2", 1)
        two_arms.eventually(lambda: load.sent > 1500)
        kill(two_arms, "films-v2", 2)
    assert load.codes == {200: 2500}
    # The counts outlive the time in which the arm had no process at all.
    assert two_arms.eventually(lambda: attempts(two_arms, "films-v2", "502")) > 0
    assert attempts(two_arms, "films-v1", "502") == 0
    status = two_arms.eventually(lambda: two_arms.observed.arms["films-v2"].ready == 2 and two_arms.observed).arms
    assert status["films-v2"].restarts >= 2
    assert status["films-v2"].last_exit == -signal.SIGKILL


def test_changing_weights_and_removing_an_arm_under_load_fails_no_request(two_arms: Any) -> None:
    first, second = two_arms.arm("1", environment=SLOW), two_arms.arm("2", environment=SLOW)
    leaving = [replica.pid for replica in two_arms.observed.arms["films-v2"].replicas]
    with two_arms.load(1_000_000) as load:
        for weight in (5, 25, 100, 50):
            two_arms.desire([first, second], {"films-v1": 100 - weight, "films-v2": weight})
            wanted = {name: share for name, share in (("films-v1", 100 - weight), ("films-v2", weight)) if share}
            two_arms.eventually(lambda wanted=wanted: two_arms.applied(wanted))
            sent = load.sent
            two_arms.eventually(lambda sent=sent: load.sent > sent + 300)
        two_arms.desire([first], {"films-v1": 100})
        two_arms.eventually(lambda: "films-v2" not in two_arms.observed.arms)
        load.stop()
    assert load.codes == {200: load.sent}
    assert load.versions["2"] > 0
    assert not set(leaving) & set(two_arms.left_over())


def test_an_arm_that_is_taken_out_finishes_its_slow_requests_first(plane: Any) -> None:
    plane.desire(
        [plane.arm("1"), plane.arm("2", environment={"STANDIN_DELAY": "1.5"})], {"films-v1": 0, "films-v2": 100}
    )
    plane.up()
    with plane.load(4, clients=4) as load:
        plane.eventually(lambda: plane.in_flight("films-v2") == 4)
        plane.desire([plane.arm("1")], {"films-v1": 100})
        plane.eventually(lambda: plane.applied({"films-v1": 100}))
    assert load.codes == {200: 4}
    assert load.versions == {"2": 4}


def test_a_stopped_process_loses_its_traffic_to_the_others(two_arms: Any) -> None:
    stopped = [replica.pid for replica in two_arms.observed.arms["films-v2"].replicas]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        two_arms.eventually(lambda: two_arms.applied({"films-v1": 50}))
        with two_arms.load(200) as load:
            pass
        assert load.codes == {200: 200}
        assert two_arms.observed.arms["films-v2"].ready == 0
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_the_public_listener_offers_predictions_and_nothing_else(two_arms: Any) -> None:
    assert two_arms.ask("/v1/models/films:predict")[0] == 200
    assert two_arms.ask("/v2/models/films/infer")[0] == 200
    for path in ("/metrics", "/api/http/services", "/v2/repository/models/films/unload", "/dashboard/", "/ping", "/"):
        assert two_arms.ask(path)[0] == 404, path
    assert two_arms.ask("/v2/models/../repository/models/films/unload")[0] == 404


def test_a_request_larger_than_the_limit_is_refused_at_the_gateway(two_arms: Any) -> None:
    assert two_arms.ask(body=b"x" * (1 << 20))[0] == 200
    assert two_arms.ask(body=b"x" * ((1 << 20) + 1))[0] == 413


def test_an_arm_without_traffic_answers_on_the_direct_address_outside_its_counts(plane: Any) -> None:
    plane.desire([plane.arm("1"), plane.arm("2")], {"films-v1": 100, "films-v2": 0})
    plane.up()
    plane.eventually(lambda: plane.ask_arm("films-v2")[0] == 200)
    assert plane.ask_arm("films-v2")[1]["version"] == "2"
    assert plane.ask()[1]["version"] == "1"
    plane.eventually(lambda: attempts(plane, "films-v1", "200") == 1)
    assert attempts(plane, "films-v2", "200") == 0


def test_the_gateway_lets_nobody_outside_escape_the_counts_of_a_rollout(two_arms: Any) -> None:
    code, answer = two_arms.ask(**{SMOKE_TEST_HEADER: "1", "x-own": "kept"})
    assert code == 200
    assert "x-own" in answer["headers"]
    assert SMOKE_TEST_HEADER not in answer["headers"]


def test_prometheus_scrapes_each_process_with_the_labels_of_its_arm(two_arms: Any) -> None:
    def labels() -> set[tuple[str, str, str, str]]:
        rows = two_arms.scraped('up{job="predictors"} == 1')
        return {tuple(row["metric"][key] for key in ("arm", "model", "version", "replica")) for row in rows}

    expected = {("films-v1", "films", "1", replica) for replica in "01"}
    expected |= {("films-v2", "films", "2", replica) for replica in "01"}
    two_arms.eventually(lambda: labels() == expected)
    two_arms.desire([two_arms.arm("1", environment=SLOW)], {"films-v1": 100})
    two_arms.eventually(lambda: "films-v2" not in two_arms.observed.arms)
    two_arms.eventually(lambda: {arm for arm, *_ in labels()} == {"films-v1"})
