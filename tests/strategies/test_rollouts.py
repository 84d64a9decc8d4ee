"""Whole rollouts of each strategy: the controller's own loop on a real plane, under traffic that must not notice."""

from __future__ import annotations

import time
from typing import Any

import pytest

from slipway.serving.rollout.core.types import Phase

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_rollouts")]


@pytest.fixture
def serving(shared_plane: Any, wanted: Any) -> Any:
    """Version 1 at full size with all traffic, and nothing else."""
    wanted(shared_plane, [shared_plane.arm("1")], {"films-v1": 100})
    shared_plane.up()
    shared_plane.eventually(lambda: set(shared_plane.observed.arms) == {"films-v1"})
    return shared_plane


def shadow(**changes: Any) -> dict[str, Any]:
    step = {"weight": 0, "mirror": 100, "minimum_dwell": "1s", "minimum_samples": 300}
    return {"strategy": "shadow", "steps": [step], **changes}


def test_a_shadow_ends_with_a_verdict_and_no_user_ever_saw_its_answers(
    serving: Any, visitors: Any, rollout: Any
) -> None:
    run = rollout(serving, shadow())
    with visitors(serving.gateway_port) as load:
        run.until_phase(Phase.COMPLETED)
    assert load.codes == {200: load.sent}
    assert load.versions == {"1": load.sent}
    assert run.state.verdicts[0].samples >= 300
    assert run.aliases.champion == "1"
    serving.eventually(lambda: set(serving.observed.arms) == {"films-v1"})
    assert serving.observed.mirrors_desired == {}


def test_a_shadow_that_fails_every_request_goes_back_and_no_user_noticed(
    serving: Any, visitors: Any, rollout: Any
) -> None:
    run = rollout(serving, shadow(), STANDIN_FAULTY="1")
    with visitors(serving.gateway_port) as load:
        run.until_phase(Phase.ROLLED_BACK)
    assert load.codes == {200: load.sent}
    assert "Evidence of harm" in run.state.reason
    serving.eventually(lambda: set(serving.observed.arms) == {"films-v1"})


def test_green_takes_over_at_once_and_blue_takes_back_within_two_seconds_of_the_watch(
    serving: Any, visitors: Any, rollout: Any
) -> None:
    steps = [{"weight": 100, "minimum_dwell": "1s", "minimum_samples": 100}]
    run = rollout(serving, {"strategy": "blueGreen", "steps": steps, "watch": {"duration": "10m"}})
    with visitors(serving.gateway_port) as load:
        run.until_phase(Phase.WATCHING)
        assert (run.aliases.champion, serving.observed.arms["films-v1"].ready) == ("2", 2)
        sent, from_blue = load.sent, load.versions["1"]
        run.until(lambda: load.sent > sent + 300)
        assert load.versions["1"] == from_blue
        began = time.monotonic()
        run.folder.give("abort", by="a test")
        run.until(lambda: serving.applied({"films-v1": 100}))
        seconds = time.monotonic() - began
        run.until_phase(Phase.ROLLED_BACK)
    assert load.codes == {200: load.sent}
    assert load.versions["2"] > 200
    assert seconds < 2.0
    assert run.aliases.champion == "1"
