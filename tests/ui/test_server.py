"""What the page's server tells: lists, details, streams and problems."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_playback import CANDIDATE, Player, create, history_of, spec_of
from served_page import CLIENT, Served, eventually, served

from slipway.contracts.errors import RolloutError
from slipway.contracts.rollout import RolloutSpec
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.rollout.event_stream import Decision
from slipway.serving.rollout.store import RolloutFolder
from slipway.serving.ui.local_source import LocalSource
from slipway.serving.ui.series import thinned
from slipway.serving.ui.stream import LARGEST_NUMBER

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("ui_server")]

ROLLOUT = "20270102-000000-000-films-v2"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with 200 rollouts that have ended."""
    directory = tmp_path_factory.mktemp("project")
    history_of(directory, 200)
    return directory


@pytest.fixture(scope="module")
def page(project: Path) -> Iterator[Served]:
    """Its page."""
    with served(project) as page:
        yield page


def listen(page: Served, path: str, messages: list[tuple[str, Any]], ends: threading.Event) -> threading.Thread:
    """Collects (event, data) of a stream in a thread until `ends` is set or the stream ends."""

    def collect() -> None:
        name = ""
        with CLIENT.stream("GET", f"{page.base}{path}") as response:
            for line in response.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    messages.append((name, json.loads(line.removeprefix("data: "))))
                if ends.is_set():
                    return

    thread = threading.Thread(target=collect)
    thread.start()
    return thread


def test_two_hundred_rollouts_are_listed_by_pages_and_quickly(page: Served) -> None:
    page.get("/api/rollouts")
    began = time.perf_counter()
    first = page.get("/api/rollouts?limit=25").json()
    seconds = time.perf_counter() - began
    assert (first["found"], first["all"], len(first["rollouts"])) == (200, 200, 25)
    ids = [row["rollout"] for row in first["rollouts"]]
    assert ids == sorted(ids, reverse=True)
    last = page.get("/api/rollouts?limit=25&offset=175").json()["rollouts"]
    assert last[-1]["candidates"] == ["films-v2"]
    back = page.get("/api/rollouts?phase=RolledBack").json()
    assert back["found"] == 66
    assert {row["phase"] for row in back["rollouts"]} == {"RolledBack"}
    assert page.get("/api/rollouts?search=films-v7").json()["found"] == 11
    assert page.get("/api/rollouts?phase=under-way").json()["found"] == 0
    # Some 10 ms on a quiet machine: 200 files are looked at, none is read again.
    assert seconds < 1.0


def test_a_rollout_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    history_of(tmp_path, 2)
    broken = create(tmp_path, spec_of(ROLLOUT))
    (broken.path / "state.json").write_text("{")
    source = LocalSource(tmp_path)
    assert [summary.phase for summary in source.list()] == ["Unreadable", "Promoted", "Promoted"]
    assert "state.json" in source.list()[0].reason
    (PlaneLayout(tmp_path).rollouts / "controller.lock").touch()
    assert len(source.list()) == 3


def test_the_stream_tells_state_decisions_and_end_as_they_come(page: Served, project: Path) -> None:
    folder = create(project, spec_of(ROLLOUT))
    player = Player(folder).play(6)
    messages: list[tuple[str, Any]] = []
    known = page.get(f"/api/rollouts/{ROLLOUT}").json()["decisions"]
    thread = listen(page, f"/api/rollouts/{ROLLOUT}/stream?after={known}", messages, threading.Event())
    eventually(lambda: messages, what="the state")
    assert [name for name, _ in messages] == ["state"]
    assert messages[0][1]["phase"] == "Progressing"
    assert set(messages[0][1]["commands"]) == {"pause", "skip", "promote", "abort"}
    assert page.tell(ROLLOUT, "pause").status_code == 202
    eventually(lambda: any(data.get("pending") for name, data in messages if name == "state"), what="the command")
    player.look()
    eventually(lambda: any(data.get("phase") == "Paused" for name, data in messages if name == "state"))
    told = [decision for name, data in messages if name == "decisions" for decision in data["decisions"]]
    assert told[0]["sequence"] == known + 1
    assert any("pause by" in event["message"] for decision in told for event in decision["events"])
    assert page.tell(ROLLOUT, "abort").status_code == 202
    player.play(4)
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert messages[-1] == ("end", {"phase": "RolledBack"})
    sequences = [
        decision["sequence"] for name, data in messages if name == "decisions" for decision in data["decisions"]
    ]
    assert sequences == list(range(known + 1, known + 1 + len(sequences)))
    assert page.get(f"/api/rollouts/{ROLLOUT}").json()["detail"]["commands"] == ["retry"]


def test_the_list_says_when_a_line_changed(page: Served, project: Path) -> None:
    messages: list[tuple[str, Any]] = []
    ends = threading.Event()
    version = page.get("/api/rollouts").json()["version"]
    # Made before the stream begins: what changed between list and stream must be told too.
    folder = create(project, spec_of("20270104-000000-000-films-v2"))
    thread = listen(page, f"/api/stream?version={version}", messages, ends)
    eventually(lambda: messages, what="the new rollout")
    assert messages == [("changed", {})]
    assert page.get("/api/rollouts?phase=under-way").json()["rollouts"][0]["phase"] == "Pending"
    ends.set()
    Player(folder).play(1)
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_decisions_are_given_newest_first_by_pages_with_what_they_rest_on(page: Served, project: Path) -> None:
    name = "20270105-000000-000-films-v2"
    Player(create(project, spec_of(name)), error_rate=0.08).play(40)
    path = f"/api/rollouts/{name}/decisions"
    every = page.get(f"{path}?kind=all&limit=100").json()
    assert every["older"] == 0
    sequences = [decision["sequence"] for decision in every["decisions"]]
    assert sequences == list(range(len(sequences), 0, -1))
    half = page.get(f"{path}?kind=all&limit=3&before={sequences[2]}").json()
    assert [decision["sequence"] for decision in half["decisions"]] == sequences[3:6]
    assert half["older"] == len(sequences) - 6
    changes = page.get(path).json()
    assert all(decision["events"] for decision in changes["decisions"])
    end = changes["decisions"][0]
    assert str(end["evidence"]) in changes["evidence"]
    failed = changes["evidence"][str(end["evidence"])]["guardrails"]
    assert "FAIL" in {verdict["outcome"] for verdict in failed}
    series = page.get(f"/api/rollouts/{name}").json()["series"]
    assert series["guardrails"][f"errors/{CANDIDATE}"][-1]["outcome"] == "FAIL"
    assert series["weights"][-1]["weights"][CANDIDATE] == 0


def test_problems_are_pages_for_people_and_json_for_programs(page: Served) -> None:
    for path in ("/rollouts/none", "/nothing"):
        answer = page.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "What to do:" in answer.text
    answer = page.get("/api/rollouts/none")
    assert answer.json()["what"] == "there is no rollout 'none'"
    assert answer.json()["remedy"]
    assert page.get("/api/rollouts?limit=1e9").status_code == 400
    assert page.get("/rollouts/<script>").text.count("<script>") == 0


def test_a_project_without_rollouts_has_a_page_too(tmp_path: Path) -> None:
    source = LocalSource(tmp_path)
    assert source.list() == []


def test_a_chart_keeps_both_ends_and_every_change_of_a_verdict() -> None:
    def look(number: int) -> Decision:
        outcome = "FAIL" if number == 1234 else "INCONCLUSIVE"
        return Decision("r", number, float(number), "", 1, {}, "", (), number, ({"outcome": outcome},))

    looks = [look(number) for number in range(3000)]
    kept = [decision.sequence for decision in thinned(looks, 100)]
    assert len(kept) < 110
    assert {0, 1234, 1235, 2999} <= set(kept)
    assert thinned(looks[:50], 100) == looks[:50]


def test_a_client_that_goes_away_frees_its_stream_and_none_keeps_the_page_from_stopping(tmp_path: Path) -> None:
    create(tmp_path, spec_of(ROLLOUT))
    with served(tmp_path) as page:
        for _ in range(LARGEST_NUMBER + 6):
            with CLIENT.stream("GET", f"{page.base}/api/stream") as response:
                assert response.status_code == 200
                assert next(response.iter_lines()).startswith("retry")
        with contextlib.ExitStack() as opened:
            # An iterator that is dropped would close its stream.
            lines = [
                opened.enter_context(CLIENT.stream("GET", f"{page.base}/api/stream")).iter_lines()
                for _ in range(LARGEST_NUMBER)
            ]
            assert all(next(line).startswith("retry") for line in lines)
            answer = page.get("/api/stream")
            assert answer.status_code == 503
            assert "Close some" in answer.json()["remedy"]
            page.process.send_signal(signal.SIGTERM)
            assert page.process.wait(timeout=20) == 0


def test_a_retry_is_a_rollout_of_its_own(folder: RolloutFolder, tmp_path: Path) -> None:
    assert Player(folder, error_rate=0.6).play(25).record.state.phase == "RolledBack"
    tried: list[str] = []

    def retry(old: RolloutSpec) -> str:
        tried.append(old.candidates[0].version)
        return "the-new-one"

    assert LocalSource(tmp_path, retry=retry).command(folder.id, "retry", "somebody") == "the-new-one"
    assert tried == ["2"]
    assert folder.commands() == ()
    with pytest.raises(RolloutError, match="pause has no effect in phase RolledBack"):
        LocalSource(tmp_path, retry=retry).command(folder.id, "pause", "somebody")
    with pytest.raises(RolloutError, match="cannot be tried again from here"):
        LocalSource(tmp_path).command(folder.id, "retry", "somebody")


def test_a_second_rollout_says_which_one_has_to_end_first(tmp_path: Path) -> None:
    first = create(tmp_path, spec_of("20270102-000000-000-films-v2"))
    second = create(tmp_path, spec_of("20270102-000001-000-films-v3", version=3))
    Player(first).play(4)
    source = LocalSource(tmp_path)
    assert source.read(first.id)["waits_for"] is None
    assert source.read(second.id)["waits_for"] == first.id
    assert source.read(second.id)["commands"] == ["pause", "abort"]
    assert source.read(first.id)["served"] is False
