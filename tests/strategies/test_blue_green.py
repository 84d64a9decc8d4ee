"""Blue and green at full size: one switch, no lost request, and a way back that takes no start."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_blue_green")]


def test_the_switch_and_the_way_back_lose_nothing_and_the_way_back_is_immediate(
    plane: Any, wanted: Any, visitors: Any
) -> None:
    blue, green = plane.arm("1"), plane.arm("2")
    wanted(plane, [blue], {"films-v1": 100})
    plane.up()
    with visitors(plane.gateway_port) as load:
        wanted(plane, [blue, green], {"films-v1": 100, "films-v2": 0})
        plane.eventually(lambda: "films-v2" in plane.observed.arms and plane.observed.arms["films-v2"].ready == 2)
        # Ready comes a moment before its route.
        plane.eventually(lambda: plane.ask_arm("films-v2")[0] == 200)
        assert load.versions["2"] == 0

        seconds = [switch(plane, wanted, load, [blue, green], {"films-v1": 0, "films-v2": 100}, "2")]
        # Blue keeps all its processes, so that going back needs nothing but the weights.
        assert plane.observed.arms["films-v1"].ready == 2
        seconds.append(switch(plane, wanted, load, [blue, green], {"films-v1": 100, "films-v2": 0}, "1"))
    assert load.codes == {200: load.sent}
    assert load.versions["2"] > 100
    assert max(seconds) < 2.0, seconds


def switch(plane: Any, wanted: Any, load: Any, arms: list[Any], weights: dict[str, int], version: str) -> float:
    """Returns the seconds until the gateway says that it gives all requests to a version; checks that it does."""
    began = time.monotonic()
    wanted(plane, arms, weights)
    plane.eventually(lambda: plane.applied({name: weight for name, weight in weights.items() if weight}))
    seconds = time.monotonic() - began
    sent, others = load.sent, load.versions.total() - load.versions[version]
    plane.eventually(lambda: load.sent > sent + 300)
    # What was on its way at the switch may still come from the other one.
    assert load.versions.total() - load.versions[version] - others <= load.clients
    return seconds
