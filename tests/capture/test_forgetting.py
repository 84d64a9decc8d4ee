"""One person's rows leave the captured events, and nobody else's do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from slipway.cli.main import cli
from slipway.contracts.events import (
    FeedbackData,
    JoinedRequest,
    PredictionEvent,
    RequestSigner,
    load_or_create_key,
    prediction_event,
)
from slipway.serving.capture.app import Collector
from slipway.serving.capture.forgetting import forget_in_parts, without_user
from slipway.serving.capture.parts import PartWriter
from slipway.serving.local.layout import PlaneLayout

PROJECT = """
apiVersion: slipway.dev/v1alpha1
name: films
data: {interactions: {source: ratings.parquet, columns: {user: u, item: i, timestamp: t}}}
"""
ANN, BOB, CID = "ann", "bob", "cid"


class Capture:
    """A collector with a clock that the test moves, whose parts lie where those of a project do."""

    def __init__(self, project: Path) -> None:
        (project / "slipway.yaml").write_text(PROJECT)
        self.layout = PlaneLayout(project)
        self.signer = RequestSigner(load_or_create_key(self.layout.key_file))
        self.now = time.time() - 5_000.0
        self.collector = Collector(
            self.signer, wait=2.0, expiry=600.0, directory=self.layout.feedback, clock=lambda: self.now
        )

    def event(self, *users: str) -> dict[str, Any]:
        data = {
            "request_id": self.signer.issue("films", "1", self.now), "model": "films", "version": "1",
            "latency_ms": 1.0,
            "entities": [{"user": self.hashed(user), "items": [f"{user}-a", f"{user}-b", "all"]} for user in users],
        }  # fmt: skip
        return prediction_event(data, seconds=self.now)

    def answer(self, *users: str) -> str:
        event = self.event(*users)
        assert self.collector.joiner.prediction(PredictionEvent.model_validate(event), self.now)
        return str(event["data"]["request_id"])

    def click(self, request: str, item: str) -> str:
        return self.collector.joiner.feedback(FeedbackData(request_id=request, item=item, type="click"), self.now)

    def hashed(self, user: str) -> str:
        return self.signer.hash_user(user)

    def wait(self, seconds: float = 3.0, *, flush: bool = True) -> None:
        self.now += seconds
        self.collector.advance(self.now)
        if flush:
            self.flush()

    def flush(self) -> None:
        for parts in (self.collector._joined_parts, self.collector._late_parts):
            parts.flush(self.now)

    def post(self, path: str, content: Any) -> tuple[int, Any]:
        body, sent = json.dumps(content).encode(), []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        asyncio.run(self.collector(scope, receive, send))  # type: ignore[arg-type]
        return sent[0]["status"], json.loads(sent[1]["body"])

    def forget(self, user: str, **more: Any) -> dict[str, Any]:
        status, answer = self.post("/users/forget", {"user": self.hashed(user), **more})
        assert status == 200
        return dict(answer)

    def rows(self, kind: str = "joined") -> list[dict[str, Any]]:
        files = sorted((self.layout.feedback / kind).glob("*/*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def on_disk(self, user: str) -> bool:
        return any(self.hashed(user) in file.read_text() for file in self.layout.feedback.rglob("*.jsonl"))


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture(tmp_path.resolve())


def test_of_a_row_for_several_the_others_part_stays_with_the_feedback_that_may_be_theirs(capture: Capture) -> None:
    request = capture.answer(ANN, BOB)
    for item in ("ann-a", "bob-a", "all"):
        assert capture.click(request, item) == "accepted"
    capture.wait()
    (row,) = capture.rows()
    left = without_user(row, capture.hashed(ANN))
    assert left is not None
    assert [entity["user"] for entity in left["prediction"]["data"]["entities"]] == [capture.hashed(BOB)]
    assert [event["data"]["item"] for event in left["feedback"]] == ["bob-a", "all"]
    JoinedRequest.model_validate(left)
    assert without_user(row, capture.hashed(CID)) is row
    assert without_user(left, capture.hashed(BOB)) is None


def test_parts_lose_one_person_whole_or_not_at_all_and_keep_their_age(capture: Capture) -> None:
    requests = {user: capture.answer(user) for user in (ANN, BOB)}
    shared = capture.answer(ANN, CID)
    capture.wait()
    for request, item in ((requests[ANN], "ann-a"), (requests[BOB], "bob-a"), (shared, "ann-b"), (shared, "cid-a")):
        assert capture.click(request, item) == "late"
    capture.answer(BOB)
    capture.wait()
    alone = capture.layout.feedback / "joined"
    capture.answer(ANN)
    capture.wait()
    parts = sorted(alone.glob("*/*.jsonl"))
    assert len(parts) == 3
    for number, part in enumerate(parts):
        os.utime(part, (1_700_000_000 + number, 1_700_000_000 + number))
    before = {part: part.read_bytes() for part in capture.layout.feedback.rglob("*.jsonl")}

    looked = forget_in_parts(capture.layout.feedback, capture.hashed(ANN), removes=False)
    assert {part: part.read_bytes() for part in capture.layout.feedback.rglob("*.jsonl")} == before
    done = forget_in_parts(capture.layout.feedback, capture.hashed(ANN), removes=True)
    assert done == looked
    assert [(one.path.parents[1].name, one.removed, one.changed) for one in done] == [
        ("late", 2, 0), ("joined", 1, 1), ("joined", 1, 0)
    ]  # fmt: skip
    assert not capture.on_disk(ANN)
    assert [event["data"]["item"] for event in capture.rows("late")] == ["bob-a", "cid-a"]
    # The part that held nobody else is gone; that of nobody's concern is untouched; the third is as old as it was.
    assert not parts[2].exists()
    assert parts[1].read_bytes() == before[parts[1]]
    assert parts[0].stat().st_mtime == 1_700_000_000
    assert parts[0].stat().st_mode & 0o777 == 0o600
    assert forget_in_parts(capture.layout.feedback, capture.hashed(ANN), removes=True) == []
    assert not [path for path in capture.layout.feedback.rglob("*") if path.name.startswith(".")]


def test_what_waits_in_memory_goes_too_and_later_feedback_brings_nobody_back(capture: Capture) -> None:
    waits, shared = capture.answer(ANN), capture.answer(ANN, BOB)
    capture.click(shared, "ann-a")
    counted = capture.answer(ANN)
    capture.wait(flush=False)  # counted, and its line not yet on disk
    assert capture.click(counted, "ann-a") == "late"
    again = capture.answer(ANN, BOB)
    capture.click(again, "bob-a")
    assert capture.forget(ANN, dry_run=True)["requests"] == 4
    answer = capture.forget(ANN)
    assert (answer["requests"], answer["lines"]) == (4, 4)  # three joined lines and the late one
    assert answer["gone"][waits] is None
    assert answer["gone"][shared] == ["ann-a", "ann-b"]
    for request in (waits, counted):
        assert capture.click(request, "ann-b") in ("unknown", "held")
    assert capture.click(again, "ann-b") == "unknown"
    capture.wait(100.0)
    assert not capture.on_disk(ANN)
    assert [event["data"]["item"] for row in capture.rows() for event in row["feedback"]] == ["bob-a"]
    assert capture.rows("late") == []
    assert capture.forget(ANN) == {"requests": 0, "lines": 0, "gone": {}}


def test_an_event_that_is_still_on_its_way_is_not_kept_and_what_the_person_asks_later_is(capture: Capture) -> None:
    on_its_way = capture.event(ANN)
    capture.now += 1.0
    capture.forget(ANN)
    capture.now += 1.0
    assert capture.post("/events", [on_its_way])[0] == 202
    assert len(capture.collector.joiner) == 0
    assert capture.post("/events", [capture.event(ANN), capture.event(BOB)])[1] == {"accepted": 2, "rejected": 0}
    capture.wait()
    kept = [row["prediction"]["data"]["entities"][0]["user"] for row in capture.rows()]
    assert sorted(kept) == sorted([capture.hashed(ANN), capture.hashed(BOB)])


def test_a_person_who_was_forgotten_counts_as_a_new_user(capture: Capture) -> None:
    capture.post("/events", [capture.event(ANN)])
    capture.forget(ANN)
    capture.now += 1.0
    capture.post("/events", [capture.event(ANN)])
    labels = {"model": "films", "version": "1"}
    assert capture.collector.metrics.registry.get_sample_value("slipway_new_users_total", labels) == 2


@pytest.mark.parametrize("content", [[], {}, {"user": "ann"}, {"user": "A" * 32}, {"user": 5}])
def test_what_is_no_hashed_user_is_refused(capture: Capture, content: Any) -> None:
    assert capture.post("/users/forget", content)[0] == 400


def test_a_part_is_not_written_while_lines_are_taken_out(tmp_path: Path) -> None:
    parts = PartWriter(tmp_path, "joined")
    for line in (b"one", b"two", b"three"):
        parts.add(line, 0.0)

    async def edit() -> int:
        waiting = asyncio.create_task(parts.edit(lambda line: None if line == b"two" else line))
        parts._lock.acquire()
        await asyncio.sleep(0.05)
        assert not waiting.done()
        parts._lock.release()
        return await waiting

    assert asyncio.run(edit()) == 1
    assert parts.flush(0.0) == 2


def test_the_command_shows_first_and_removes_when_asked_and_may_be_run_again(capture: Capture) -> None:
    project = capture.layout.root.parents[1]
    for user in (ANN, BOB, ANN):
        capture.answer(user)
    capture.wait()

    def clean(*options: str) -> Any:
        result = CliRunner().invoke(cli, ["clean", "-f", str(project), "--user", ANN, "-o", "json", *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    (shown,) = clean()
    assert (shown["kind"], shown["rows"], shown["shared"], shown["removed"]) == ("joined", 2, 0, False)
    assert capture.on_disk(ANN)
    assert clean("--yes", "--dry-run") == [shown]
    assert clean("--yes") == [{**shown, "removed": True}]
    assert not capture.on_disk(ANN)
    assert capture.on_disk(BOB)
    assert clean("--yes") == []


def test_a_project_that_captured_nothing_gets_no_key_by_it(tmp_path: Path) -> None:
    (tmp_path / "slipway.yaml").write_text(PROJECT)
    (tmp_path / ".slipway").mkdir()
    result = CliRunner().invoke(cli, ["clean", "-f", str(tmp_path), "--user", ANN, "--yes"])
    assert (result.exit_code, "nothing was captured of this person" in result.output) == (0, True)
    assert not PlaneLayout(tmp_path).key_file.exists()
