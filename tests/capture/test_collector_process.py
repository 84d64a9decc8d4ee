"""A real collector: predictions and feedback in over HTTP, counters and captured files out."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway.contracts.events import JoinedRequest, RequestSigner, load_or_create_key, prediction_event
from slipway.serving.predictor.events import AnsweredRequest, EventSender

pytestmark = pytest.mark.integration

WAIT = 1.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    directory: Path
    signer: RequestSigner

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, raw)
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
        return response.status, content

    def metrics(self) -> dict[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def event(self, *items: str, version: str = "2") -> dict[str, Any]:
        now = time.time()
        data = {
            "request_id": self.signer.issue("films", version, now),
            "model": "films",
            "version": version,
            "latency_ms": 1.0,
            "entities": [{"user": self.signer.hash_user("1"), "items": list(items)}],
        }
        return prediction_event(data, seconds=now)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Running]:
    port, metrics_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "slipway.serving.capture", "--port", str(port), "--metrics-port", str(metrics_port)),
        *("--key-file", str(tmp_path / "key"), "--wait", str(WAIT), "--expiry", "60"),
        *("--directory", str(tmp_path / "captured"), "--arm", "films:1"),
    ]
    process = subprocess.Popen(command, text=True)
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    signer = RequestSigner(load_or_create_key(tmp_path / "key"))
    yield Running(process, port, metrics_port, tmp_path / "captured", signer)
    process.kill()
    process.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def joined(version: str, *, clicked: bool = False) -> str:
    name = "slipway_joined_clicked_requests_total" if clicked else "slipway_joined_requests_total"
    return f'{name}{{model="films",version="{version}"}}'


def test_feedback_is_joined_counted_and_kept(collector: Running) -> None:
    assert collector.metrics()[joined("1")] == 0  # there before the first request
    events = [collector.event("a", "b") for _ in range(3)]
    ids = [event["id"] for event in events]
    broken = [{"specversion": "1.0"}, events[0] | {"id": 7}, None]
    assert collector.post("/events", events + broken) == (202, {"accepted": 3, "rejected": 3})

    assert collector.post("/v1/feedback", {"request_id": ids[0], "item": "a", "type": "click"}) == (
        202,
        {"outcome": "accepted"},
    )
    many = [
        {"request_id": ids[0], "item": "a", "type": "click"},
        {"request_id": ids[0], "item": "b", "type": "rating", "value": 4.5},
        {"request_id": ids[1], "item": "z", "type": "click"},
        {"request_id": ids[1][:-1] + "!", "item": "a", "type": "click"},
        {"request_id": ids[1]},
    ]
    status, answer = collector.post("/v1/feedback", many)
    assert status == 202
    outcomes = [one["outcome"] for one in answer["outcomes"]]
    assert outcomes == ["duplicate", "accepted", "unknown", "forged", "malformed"]

    until(lambda: collector.metrics().get(joined("2"), 0) == 3)
    assert collector.metrics()[joined("2", clicked=True)] == 1
    assert collector.post("/v1/feedback", {"request_id": ids[2], "item": "a", "type": "click"})[1] == {
        "outcome": "late"
    }
    metrics = collector.metrics()
    for outcome in ("accepted", "duplicate", "unknown", "late"):
        expected = 2 if outcome == "accepted" else 1
        assert metrics[f'slipway_feedback_total{{model="films",outcome="{outcome}"}}'] == expected
    assert metrics['slipway_feedback_total{model="",outcome="forged"}'] == 1

    collector.process.send_signal(signal.SIGTERM)
    assert collector.process.wait(10) == 0
    lines = [line for part in collector.directory.glob("joined/*/*.jsonl") for line in part.read_text().splitlines()]
    kept = [JoinedRequest.model_validate_json(line) for line in lines]
    assert sorted(one.clicked for one in kept) == [False, False, True]
    assert max(len(one.feedback) for one in kept) == 2
    assert len(list(collector.directory.glob("late/*/*.jsonl"))) == 1


def test_forged_malformed_and_oversized_feedback_is_a_4xx_with_a_reason(collector: Running) -> None:
    good = {"request_id": collector.event("a")["id"], "item": "a", "type": "click"}
    forged = good | {"request_id": RequestSigner(b"x" * 32).issue("films", "2", time.time())}
    cases: list[tuple[Any, int]] = [
        (forged, 403),
        ([forged, forged], 403),
        (b"", 400),
        (b"{]", 400),
        (b'{"request_id": NaN}', 400),
        (None, 400),
        ([], 400),
        ([1, 2], 400),
        ({}, 400),
        (good | {"item": None}, 400),
        (good | {"item": "x" * 257}, 400),
        (good | {"type": "Click me"}, 400),
        (good | {"type": 3}, 400),
        (good | {"value": "high"}, 400),
        (good | {"extra": 1}, 400),
        (good | {"request_id": "x" * 513}, 400),
        ([good] * 501, 413),
        (b"[" * 300_000, 413),
    ]
    for body, expected in cases:
        status, answer = collector.post("/v1/feedback", body)
        assert (status, bool(answer.get("error"))) == (expected, True), (body, answer)
    assert collector.post("/events", {"not": "a list"})[0] == 400
    assert collector.post("/nowhere", {})[0] == 404


def sender(url: str, signer: RequestSigner, dropped: list[int], capacity: int = 100) -> EventSender:
    return EventSender(
        url,
        model="films",
        version="2",
        replica="0",
        signer=signer,
        dropped=dropped.append,
        capacity=capacity,
        interval=0.02,
    )


def answered(signer: RequestSigner) -> AnsweredRequest:
    now = time.time()
    return AnsweredRequest(signer.issue("films", "2", now), now, 1.0, None, ["42"], [["a"]], [[0.5]], [None], ["none"])


def test_the_predictors_sender_reaches_the_collector_and_hides_who_asked(collector: Running) -> None:
    dropped: list[int] = []
    events = sender(f"http://127.0.0.1:{collector.port}", collector.signer, dropped)
    for _ in range(50):
        events.put(answered(collector.signer))
    events.close()
    until(lambda: collector.metrics().get(joined("2"), 0) == 50)
    assert not dropped
    collector.process.send_signal(signal.SIGTERM)
    collector.process.wait(10)
    (part,) = collector.directory.glob("joined/*/*.jsonl")
    line = json.loads(part.read_text().splitlines()[0])
    assert line["prediction"]["data"]["entities"][0]["user"] == collector.signer.hash_user("42")


def test_without_a_collector_events_are_dropped_and_counted_and_nobody_waits() -> None:
    dropped: list[int] = []
    signer = RequestSigner(b"k" * 32)
    events = sender(f"http://127.0.0.1:{free_port()}", signer, dropped, capacity=100)
    started = time.perf_counter()
    for _ in range(1000):
        events.put(answered(signer))
    assert time.perf_counter() - started < 0.5
    events.close(timeout=0.5)
    assert sum(dropped) >= 900
