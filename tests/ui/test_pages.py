"""The two pages in Chromium: a long list, a long history, themes, widths, and a tab without the token."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rollout_playback import Player, create, history_of, spec_of
from served_page import Served, eventually, served

from slipway.serving.rollout.store import RolloutFolder

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.xdist_group("ui_pages")]

ROLLOUT = "20270102-000000-000-films-v2"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Player]]:
    """A page over 200 ended rollouts and one that waits at its gate."""
    directory = tmp_path_factory.mktemp("project")
    history_of(directory, 200)
    player = Player(create(directory, spec_of(ROLLOUT)), click_rate=0.3).play(60)
    assert player.record.state.phase == "AwaitingGate"
    with served(directory) as page:
        yield page, player


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab that must not meet an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(15_000)
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if "Security" in message.text else None)
    yield tab
    context.close()
    assert problems == []


def test_two_hundred_rollouts_are_shown_by_pages_at_once(opened: tuple[Served, Player], tab: Any) -> None:
    page, _ = opened
    tab.goto(page.base)
    tab.locator("tbody tr").nth(24).wait_for()
    began = time.perf_counter()
    tab.reload()
    tab.locator("tbody tr").nth(24).wait_for()
    seconds = time.perf_counter() - began
    assert tab.locator("tbody tr").count() == 25
    assert tab.locator("#count").inner_text() == "201 rollouts"
    tab.get_by_role("button", name="Older →").click()
    tab.get_by_text(re.compile("26.50 of 201")).wait_for()
    tab.get_by_label("Phase").select_option("RolledBack")
    tab.get_by_text("66 of 201 rollouts").wait_for()
    tab.get_by_role("searchbox").fill("films-v7")
    tab.get_by_text("5 of 201 rollouts").wait_for()
    assert "search=films-v7" in tab.url
    # A third of a second on a quiet machine.
    assert seconds < 5.0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen_and_text_can_be_read(
    opened: tuple[Served, Player], tab: Any, scheme: str, width: int
) -> None:
    page, _ = opened
    tab.set_viewport_size({"width": width, "height": 844})
    tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for path, ready in (("/", "tbody tr"), (f"/rollouts/{ROLLOUT}", ".chart svg text"), ("/rollouts/none", "h1")):
        tab.goto(f"{page.base}{path}")
        tab.locator(ready).first.wait_for()
        if path.endswith(ROLLOUT):
            tab.locator("#log summary").first.click()
            tab.locator("#log .judged").first.wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") == width, path
        assert tab.evaluate(POOR_CONTRAST) == [], path


def test_every_look_can_be_opened_and_its_query_copied(opened: tuple[Served, Player], tab: Any) -> None:
    page, _ = opened
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.goto(f"{page.base}/rollouts/{ROLLOUT}")
    tab.get_by_label("every look").check()
    tab.get_by_role("button", name="Show older decisions").click()
    eventually(lambda: tab.locator("#log > li").count() == 40)
    tab.locator("#log summary").first.click()
    tab.locator("#log .judged").first.wait_for()
    first = tab.locator("#log .inside").first
    assert "Rule:" in first.inner_text()
    assert "Read: films-v1" in first.inner_text()
    assert "Evidence of harm" in first.inner_text()
    assert "enough from" in first.inner_text()
    assert "never read as passed" in first.inner_text() or "proven not to be worse" in first.inner_text()
    first.get_by_role("button", name="Copy the query of errors, films-v2, events").click()
    first.get_by_text("Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == 'requests_total{code=~"5.."}'


def test_a_chart_can_be_read_with_the_arrow_keys(opened: tuple[Served, Player], tab: Any) -> None:
    page, _ = opened
    tab.goto(f"{page.base}/rollouts/{ROLLOUT}")
    chart = tab.get_by_role("slider", name="clicks: odds ratio over time")
    chart.focus()
    latest = chart.get_attribute("aria-valuetext")
    assert "margin 0.8" in latest
    tab.keyboard.press("Home")
    assert chart.get_attribute("aria-valuenow") == "1"
    tab.keyboard.press("ArrowRight")
    assert chart.get_attribute("aria-valuenow") == "2"
    assert chart.get_attribute("aria-valuetext") != latest
    tab.keyboard.press("End")
    assert chart.get_attribute("aria-valuetext") == latest


def test_a_tab_without_the_token_asks_for_it(opened: tuple[Served, Player], tab: Any) -> None:
    page, player = opened
    tab.goto(f"{page.base}/rollouts/{ROLLOUT}")
    tab.get_by_role("button", name="Approve").click()
    tab.get_by_label("Token").fill("not the token")
    tab.keyboard.press("Enter")
    tab.get_by_role("alert").filter(has_text="this is not the token").wait_for()
    assert player.folder.commands() == ()
    tab.get_by_label("Token").fill(page.token)
    tab.keyboard.press("Enter")
    tab.get_by_text("has not taken it up yet").wait_for()
    assert [command.kind for command in player.folder.commands()] == ["approve"]
    player.look()
    tab.get_by_text("Approve was given by").wait_for(state="detached")
    tab.locator("#standing .badge", has_text="Progressing").wait_for()
    _stays_open_and_live(tab, player.folder, player)


def _stays_open_and_live(tab: Any, folder: RolloutFolder, player: Player) -> None:
    """What is open in the log stays open, and keeps the focus, while decisions come in above it."""
    summary = tab.locator("#log summary").first
    summary.focus()
    tab.keyboard.press("Enter")
    text = summary.inner_text()
    number = tab.locator("#log > li").count()
    player.play(3)
    eventually(lambda: tab.locator("#log > li").count() > number, what="newer decisions")
    assert tab.evaluate("document.activeElement.innerText") == text
    assert tab.evaluate("document.activeElement.parentElement.open")


# Texts whose contrast to their background is below 4.5 (WCAG 2.2, 1.4.3), with what it is.
POOR_CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest("noscript") || element.disabled || !element.getClientRects().length) continue;
    const svg = element.namespaceURI.endsWith("svg");
    const style = getComputedStyle(element);
    const ink = light(parse(svg ? style.fill : style.color)), ground = light(behind(element));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < 4.5) poor.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
