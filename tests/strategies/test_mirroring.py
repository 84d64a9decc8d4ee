"""Copies of the users' requests for a version that nobody sees yet: they arrive, are counted, and harm nobody."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from slipway.contracts.metrics import SHADOW_HEADER

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_mirroring")]


@pytest.fixture
def shadowed(shared_plane: Any, wanted: Any) -> Any:
    """Returns a function that serves everyone with version 1 and copies requests to version 2."""

    def serve(percent: int, **shadow: str) -> Any:
        arms = [shared_plane.arm("1", replicas=1), shared_plane.arm("2", replicas=1, environment=shadow)]
        weights = {"films-v1": 100, "films-v2": 0}
        wanted(shared_plane, arms, weights, mirrors={"films-v2": percent})
        shared_plane.up()
        shared_plane.eventually(lambda: mirror_applied(shared_plane) == percent)
        return shared_plane

    return serve


def mirror_applied(plane: Any) -> int:
    arm = plane.observed.arms.get("films-v2")
    return arm.mirror_applied if arm is not None and arm.ready == arm.total else -1


def test_copies_arrive_in_the_share_that_is_set_and_count_for_their_arm(
    shadowed: Any, visitors: Any, counts: Any
) -> None:
    plane = shadowed(25)
    before = counts(plane, "films-v1"), counts(plane, "films-v2")
    with visitors(plane.gateway_port, total=400) as load:
        load.finish()
    assert load.codes == {200: 400}
    assert load.versions == {"1": 400}
    plane.eventually(lambda: counts(plane, "films-v1") - before[0] == 400)
    plane.eventually(lambda: counts(plane, "films-v2") - before[1] == 100)
    observed = plane.observed
    assert (observed.arms["films-v2"].weight_applied, observed.arms["films-v1"].mirror_applied) == (0, 0)
    assert observed.mirrors_desired == {"films-v2": 25}


def test_a_copy_is_whole_and_a_request_over_the_limit_is_neither_answered_nor_copied(
    shadowed: Any, counts: Any
) -> None:
    plane = shadowed(100)
    before = counts(plane, "films-v2")
    assert plane.ask(body=b"x" * (1 << 20))[0] == 200
    assert plane.ask(body=b"x" * ((1 << 20) + 1))[0] == 413
    plane.eventually(lambda: counts(plane, "films-v2") == before + 1)


def test_a_hanging_version_delays_nobody_and_its_copies_are_bounded(shadowed: Any, visitors: Any) -> None:
    plane = shadowed(100, STANDIN_DELAY="60")
    with visitors(plane.gateway_port, total=1500) as load:
        load.finish()
    assert load.codes == {200: 1500}
    assert load.longest < 2.0
    assert 0 < plane.in_flight("films-v2") <= 256


def test_a_dying_version_fails_nobody_and_its_errors_count_for_it(shadowed: Any, visitors: Any, counts: Any) -> None:
    plane = shadowed(100)
    errors = counts(plane, "films-v2", "502")
    with visitors(plane.gateway_port) as load:
        plane.eventually(lambda: load.sent > 200)
        os.kill(plane.observed.arms["films-v2"].replicas[0].pid, signal.SIGKILL)
        plane.eventually(lambda: counts(plane, "films-v2", "502") > errors)
    assert load.codes == {200: load.sent}
    assert load.versions == {"1": load.sent}
    assert counts(plane, "films-v1", "502") == 0
    # While there is nothing to copy to, nothing is copied, and the plane says so; then it goes on by itself.
    plane.eventually(lambda: mirror_applied(plane) == 100)


def test_nobody_outside_can_pass_a_request_off_as_a_copy(shadowed: Any) -> None:
    code, answer = shadowed(0).ask(**{SHADOW_HEADER: "1", "x-own": "kept"})
    assert code == 200
    assert "x-own" in answer["headers"]
    assert SHADOW_HEADER not in answer["headers"]
