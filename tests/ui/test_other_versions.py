"""Rollouts that another version of Slipway began: readable, and with a plain reason why they have no buttons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rollout_playback import Player, create, spec_of
from served_page import served

from slipway.contracts.errors import RolloutError
from slipway.serving.rollout.store import RolloutFolder
from slipway.serving.ui.local_source import LocalSource

ROLLOUT = "20270102-000000-000-films-v2"


def change(file: Path, **fields: Any) -> None:
    """Writes fields that this version does not know into a file of a rollout, at the place named by the file."""
    document = json.loads(file.read_text())
    place = document["state"] if file.name == "state.json" else document["policy"]
    place |= fields
    file.write_text(json.dumps(document))


@pytest.fixture
def running(tmp_path: Path) -> RolloutFolder:
    """A rollout at its first step."""
    folder = create(tmp_path, spec_of(ROLLOUT))
    Player(folder).play(6)
    return folder


@pytest.mark.parametrize("file", ["state.json", "spec.json"])
def test_what_another_version_wrote_is_read_and_takes_no_command(
    running: RolloutFolder, tmp_path: Path, file: str
) -> None:
    before = LocalSource(tmp_path).read(ROLLOUT)
    assert "abort" in before["commands"]
    assert before["unreadable"] is None
    change(running.path / file, field_of_another_version=1)
    source = LocalSource(tmp_path)
    (line,) = source.list()
    assert (line.phase, line.steps, line.weight) == ("Progressing", 3, 20)
    detail = source.read(ROLLOUT)
    assert detail["commands"] == []
    assert "Another version of Slipway wrote this rollout" in detail["unreadable"]
    assert "move its folder away" in detail["unreadable"]
    for name in ("weights", "verdicts", "reason", "guardrails", "candidates"):
        assert detail[name] == before[name]
    assert [step["weight"] for step in detail["policy"]["steps"]] == [20, 50, 100]
    assert source.history(ROLLOUT)
    with pytest.raises(RolloutError, match="has no effect"):
        source.command(ROLLOUT, "abort", "a test")


def test_guardrails_that_this_version_does_not_know_are_left_out_of_what_it_explains(
    running: RolloutFolder, tmp_path: Path
) -> None:
    change(
        running.path / "spec.json",
        guardrails=[
            {"name": "errors", "kind": "errors", "margin": {"absolute": 0.01}, "retired": True},
            {"name": "vibes", "kind": "vibes", "margin": {"absolute": 0.01}},
            "nonsense",
        ],
    )
    assert set(LocalSource(tmp_path).read(ROLLOUT)["guardrails"]) == {"errors"}


def test_one_that_has_ended_says_what_to_do_instead(running: RolloutFolder, tmp_path: Path) -> None:
    change(running.path / "state.json", phase="RolledBack", field_of_another_version=1)
    assert "start the version again" in LocalSource(tmp_path).read(ROLLOUT)["unreadable"]


@pytest.mark.browser
@pytest.mark.integration
@pytest.mark.xdist_group("ui_pages")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_it_with_its_charts_and_the_reason_and_no_buttons(
    running: RolloutFolder, tmp_path: Path, browser: Any, width: int
) -> None:
    Player(running).play(30)
    change(running.path / "state.json", field_of_another_version=1)
    change(running.path / "spec.json", field_of_another_version=1)
    with served(tmp_path) as page:
        tab = browser.new_page(viewport={"width": width, "height": 844})
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(f"{page.base}/rollouts/{ROLLOUT}")
        tab.get_by_text("Another version of Slipway wrote this rollout").wait_for()
        tab.locator("#guardrails .chart svg text").first.wait_for()
        assert tab.locator("#actions button").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert problems == []
        tab.close()
