"""A real rollout on a real plane: its metrics, its readings, and a person who takes it back on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rollout_playback import CANDIDATE, STABLE
from served_page import eventually, served
from small_plane import errors_only, phase_of, small_plane, start_rollout, traffic, wait_for_phase, wait_for_samples

from slipway.serving.local.observed import read_observed
from slipway.serving.rollout.event_stream import HistoryReader
from slipway.serving.rollout.store import RolloutFolder

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("ui_live")]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RolloutFolder]]:
    """A rollout at its first step, with traffic."""
    directory = tmp_path_factory.mktemp("plane").resolve()
    with small_plane(directory):
        folder = start_rollout(directory, errors_only("20270102-000000-000-films-v2"))
        wait_for_phase(folder, "Progressing")
        with traffic(directory):
            wait_for_samples(folder, 60)
            yield directory, folder


def ask_prometheus(directory: Path, query: str) -> list[dict[str, Any]]:
    url = read_observed(directory).endpoints["prometheus"]
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False).json()
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def test_the_planes_prometheus_has_the_rollout(live: tuple[Path, RolloutFolder]) -> None:
    directory, folder = live
    phase = f'slipway_rollout_phase{{rollout="{folder.id}",phase="Progressing"}} == 1'
    eventually(lambda: ask_prometheus(directory, phase), what="the phase")
    (weight,) = ask_prometheus(directory, f'slipway_rollout_weight{{arm="{CANDIDATE}"}}')
    assert weight["value"][1] == "30"
    eventually(lambda: ask_prometheus(directory, 'slipway_rollout_samples{guardrail="errors"} >= 60'))
    assert ask_prometheus(directory, "rate(slipway_rollout_ticks_total[10s]) > 0")
    (age,) = ask_prometheus(directory, "time() - slipway_rollout_last_tick_timestamp_seconds")
    assert float(age["value"][1]) < 10


def test_what_was_read_is_what_is_judged_and_every_query_can_be_pasted(live: tuple[Path, RolloutFolder]) -> None:
    directory, folder = live
    decisions = HistoryReader(folder).new()
    last = max((decision for decision in decisions if decision.guardrails), key=lambda decision: decision.sequence)
    read: Counter[tuple[str, str]] = Counter()
    for decision in decisions:
        for verdict in decision.guardrails:
            for arm, reading in verdict["readings"].items():
                read[verdict["guardrail"], arm] += reading["n"]
    for verdict in last.guardrails:
        if verdict["guardrail"] == "assignment":
            continue
        assert read[verdict["guardrail"], CANDIDATE] == verdict["samples"] > 0
        assert read[verdict["guardrail"], STABLE] == verdict["stable_samples"] > 0
        for query in verdict["queries"].values():
            events, _, total = query.partition(" out of ")
            assert ask_prometheus(directory, total), total
            # No failed request so far, so that only the other guardrail's events have a series.
            assert ask_prometheus(directory, events) or verdict["guardrail"] == "errors", events


@pytest.mark.browser
def test_weights_in_force_are_drawn_beside_those_that_were_decided(
    live: tuple[Path, RolloutFolder], browser: Any
) -> None:
    directory, folder = live
    with served(directory) as page:
        series = page.get(f"/api/rollouts/{folder.id}").json()["series"]
        decided = next(point for point in series["weights"] if point["weights"].get(CANDIDATE) == 30)
        seen = next(point for point in series["in_force"] if point["weights"].get(CANDIDATE) == 30)
        # The gateway takes a moment, so that the one never stands in for the other.
        assert decided["at"] < seen["at"]
        assert seen["weights"] == {STABLE: 70, CANDIDATE: 30}
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.goto(f"{page.base}/rollouts/{folder.id}")
        chart = tab.get_by_role("slider", name="Traffic by version over time")
        chart.wait_for()
        assert tab.locator("#weights .inforce").count() == tab.locator("#weights .weight").count() == 2
        chart.focus()
        tab.keyboard.press("End")
        assert f"decided: {CANDIDATE} 30 %, {STABLE} 70 %" in chart.get_attribute("aria-valuetext")
        assert "in force" in chart.get_attribute("aria-valuetext")
        tab.get_by_text(f"In force: {STABLE} 70 %, {CANDIDATE} 30 %").wait_for()
        tab.close()


@pytest.mark.browser
def test_a_person_pauses_and_takes_back_a_rollout_by_keyboard_on_a_phone(
    live: tuple[Path, RolloutFolder], browser: Any
) -> None:
    directory, folder = live
    with served(directory) as page:
        context = browser.new_context(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
        tab = context.new_page()
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.goto(f"{page.base}/#token={page.token}")
        assert "token" not in tab.url
        tab.get_by_role("link", name=f"{CANDIDATE} over {STABLE}").focus()
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/rollouts/*")
        tab.get_by_text("Live", exact=True).wait_for()

        press(tab, "Pause")
        assert focused(tab) == "Cancel"
        tab.keyboard.press("Escape")
        assert focused(tab) == "Pause"
        assert phase_of(folder) == "Progressing"

        press(tab, "Pause")
        # The focus goes round inside the dialog, both ways.
        tab.keyboard.press("Shift+Tab")
        assert focused(tab) == f"Pause {CANDIDATE}"
        tab.keyboard.press("Tab")
        assert focused(tab) == "Cancel"
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        wait_for_phase(folder, "Paused")
        tab.locator("#standing .badge", has_text="Paused").wait_for()
        tab.get_by_role("button", name="Resume").wait_for()

        press(tab, "Abort")
        assert f"all traffic goes to {STABLE}" in tab.get_by_role("dialog").inner_text()
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        wait_for_phase(folder, "RolledBack")
        tab.locator("#standing .badge", has_text="RolledBack").wait_for()
        tab.get_by_text("abort by", exact=False).first.wait_for()
        assert tab.get_by_role("button", name="Abort").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        weights = read_observed(directory).arms
        assert {name: arm.weight_applied for name, arm in weights.items() if arm.weight_applied} == {STABLE: 100}
        assert problems == []
        context.close()


def press(tab: Any, name: str) -> None:
    """Opens a command's dialog with the keyboard: from the top of the page on, by Tab alone."""
    tab.get_by_role("button", name=name).wait_for()
    tab.locator("#main").focus()
    for _ in range(40):
        tab.keyboard.press("Tab")
        if focused(tab) == name:
            outline = tab.evaluate("getComputedStyle(document.activeElement).outlineWidth")
            assert outline == "3px", f"the focus cannot be seen: {outline}"
            tab.keyboard.press("Enter")
            return
    raise AssertionError(f"Tab does not reach {name}")


def focused(tab: Any) -> str:
    text: str = tab.evaluate("document.activeElement.innerText || document.activeElement.id")
    return text
