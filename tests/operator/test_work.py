"""The operator's queue, its Lease, its memory and its notices."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from slipway.contracts.errors import ArtifactError, ServiceError
from slipway.contracts.rollout import RolloutSpec
from slipway.serving.rollout.core.decide import new_state
from slipway.serving.rollout.operator.home import commands_of
from slipway.serving.rollout.operator.kube import ConflictError, Document, Resource
from slipway.serving.rollout.operator.lease import LeaderElection
from slipway.serving.rollout.operator.notifications import Notice, Notifier
from slipway.serving.rollout.operator.settings import parse_arguments
from slipway.serving.rollout.operator.status import MOST_EVENTS, Condition, Memory
from slipway.serving.rollout.operator.work_queue import WorkQueue
from slipway.serving.rollout.store import Record


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_never_in_two_hands_and_comes_again_for_what_came_in_meanwhile() -> None:
    queue = WorkQueue(clock=(clock := Clock()))
    queue.add("a")
    queue.add("a")
    assert queue.get() == "a"
    assert len(queue) == 0
    queue.add("a")
    assert len(queue) == 0
    queue.done("a", 60.0)
    assert queue.get() == "a"
    queue.done("a", 60.0)
    clock.now = 59.0
    assert len(queue) == 0
    clock.now = 60.0
    assert queue.get() == "a"


def test_a_key_that_fails_comes_again_after_growing_pauses_until_it_succeeds() -> None:
    queue = WorkQueue(first=1.0, longest=8.0, clock=(clock := Clock()))
    pauses = []
    queue.add("a")
    for _ in range(6):
        assert queue.get() == "a"
        queue.add("a")  # a change that comes in meanwhile must not shorten the pause
        pauses.append(queue.failed("a"))
        clock.now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert queue.get() == "a"
    queue.done("a", 0.0)
    assert queue.get() == "a"
    assert queue.failed("a") == 1.0


def test_a_closed_queue_lets_its_workers_go() -> None:
    queue = WorkQueue()
    got: list[str | None] = []
    worker = threading.Thread(target=lambda: got.append(queue.get()))
    worker.start()
    queue.close()
    worker.join(10)
    assert got == [None]


class Server:
    """The API server's promise about one Lease: a write onto another version than was read fails."""

    def __init__(self) -> None:
        self.lease: Document | None = None
        self.version = 0
        self.away = False

    def get(self, resource: Resource, namespace: str | None, name: str) -> Document | None:
        if self.away:
            raise ServiceError("away")
        return None if self.lease is None else json.loads(json.dumps(self.lease))

    def create(self, resource: Resource, document: Document) -> Document:
        if self.lease is not None:
            raise ConflictError("exists")
        return self._store(document)

    def replace(self, resource: Resource, document: Document) -> Document:
        if self.away:
            raise ServiceError("away")
        if document["metadata"].get("resourceVersion") != str(self.version):
            raise ConflictError("changed")
        return self._store(document)

    def _store(self, document: Document) -> Document:
        self.version += 1
        meta = document["metadata"] | {"resourceVersion": str(self.version)}
        self.lease = json.loads(json.dumps(document | {"metadata": meta}))
        return self.lease or {}


def candidates(server: Server) -> tuple[Clock, LeaderElection, LeaderElection]:
    clock = Clock()
    one, other = (
        LeaderElection(server, "ns", "lease", name, duration=15.0, clock=clock)  # type: ignore[arg-type]
        for name in ("one", "other")
    )
    return clock, one, other


def test_one_leads_and_another_takes_over_only_when_it_has_been_silent_for_its_time() -> None:
    clock, one, other = candidates(Server())
    assert one.try_once()
    assert not other.try_once()
    clock.now = 14.9
    assert not other.try_once()
    clock.now = 15.0
    assert other.try_once()
    assert not one.try_once()
    assert not one.is_leader


def test_a_leader_that_cannot_renew_gives_up_before_others_may_take_over() -> None:
    clock, one, other = candidates(server := Server())
    assert one.try_once()
    server.away = True
    clock.now = 9.0
    assert not one.try_once()
    assert one.is_leader
    clock.now = 10.0
    assert not one.is_leader
    server.away = False
    assert not other.try_once()
    clock.now = 24.9
    assert not other.try_once()
    clock.now = 25.0
    assert other.try_once()


def test_a_lease_that_is_given_back_is_free_at_once() -> None:
    _, one, other = candidates(server := Server())
    assert one.try_once()
    one.release()
    assert not one.is_leader
    assert other.try_once()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


def test_of_two_that_try_at_once_one_fails() -> None:
    _, one, other = candidates(server := Server())
    get = server.get

    def get_slowly(*arguments: Any) -> Document | None:
        found = get(*arguments)
        server.get = get  # type: ignore[method-assign]
        assert other.try_once()
        return found

    server.get = get_slowly  # type: ignore[method-assign, assignment]
    assert not one.try_once()


def record() -> Record:
    spec = RolloutSpec.model_validate(
        {"id": "r", "model": "films", "candidates": [{"arm": "films-v2", "version": "2", "digest": "d"}]}
    )
    return Record(state=new_state(spec, 100.0))


def test_what_is_remembered_comes_back_the_same() -> None:
    memory = Memory(record(), [{"type": "event", "at": 1.0, "kind": "phase", "message": "x"}], {"alpha": 0.05})
    again = Memory.decoded(memory.encoded())
    assert again == memory
    assert again.encoded() == memory.encoded()
    assert Memory.decoded("") == Memory()


@pytest.mark.parametrize("text", ["nonsense", "H4sIAAAAAAAC/6uuBQBDv6ajAgAAAA==", "////"])
def test_an_altered_memory_is_refused_by_name(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"status\.record"):
        Memory.decoded(text)


def test_the_history_is_capped_and_keeps_the_newest() -> None:
    memory = Memory()
    memory.add([{"type": "event", "at": float(at)} for at in range(MOST_EVENTS + 5)])
    memory.add([{"type": "verdicts", "at": 1000.0}])
    assert [line["at"] for line in memory.lines][:1] == [5.0]
    assert len(memory.lines) == MOST_EVENTS + 1


def test_the_time_of_a_condition_changes_only_with_its_status() -> None:
    first = Condition("Available", True, "Serving", "a").document([], 1, 0.0)
    same = Condition("Available", True, "Other", "b").document([first], 2, 60.0)
    changed = Condition("Available", False, "Other", "b").document([same], 2, 60.0)
    assert same["lastTransitionTime"] == first["lastTransitionTime"] != changed["lastTransitionTime"]
    assert same["reason"] == "Other"


def test_commands_are_annotations_plain_or_with_a_name() -> None:
    annotations = {
        "command.slipway.dev/2": '{"kind": "abort", "by": "alice"}',
        "command.slipway.dev/1": "pause",
        "command.slipway.dev/3": "explode",
        "other": "abort",
    }
    found = commands_of({"metadata": {"annotations": annotations}})
    assert [(one.id, one.kind, one.by) for one in found] == [("1", "pause", ""), ("2", "abort", "alice")]


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server that fails its first request and keeps the others."""
    got: list[tuple[str, Any]] = []
    failed: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = 200 if failed else 503
            if failed:
                got.append((self.path, body))
            failed.append(self.path)
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def test_notices_reach_chat_and_alertmanager_also_when_the_first_try_fails(
    receiver: tuple[str, list[tuple[str, Any]]],
) -> None:
    url, got = receiver
    notifier = Notifier(slack=f"{url}/hook", alertmanager=url, pause=0.01)
    notifier.tell(Notice("prod/films", "films", "phase", "It began.", "Starting", "info"))
    notifier.tell(Notice("prod/films", "films", "alarm", "Both are bad.", "Holding", "critical"))
    notifier.close()
    assert [path for path, _ in got] == ["/hook", "/hook", "/api/v2/alerts"]
    assert "Both are bad." in got[1][1]["text"]
    (alert,) = got[2][1]
    assert alert["labels"] == {
        "alertname": "SlipwayRollout",
        "namespace": "prod",
        "rollout": "films",
        "model": "films",
        "kind": "alarm",
        "severity": "critical",
    }


def test_a_receiver_that_is_away_holds_nobody_up() -> None:
    notifier = Notifier(slack="http://127.0.0.1:9/secret", timeout=0.5, pause=0.01)
    began = time.monotonic()
    for _ in range(300):
        notifier.tell(Notice("prod/films", "films", "phase", "x", "Starting", "info"))
    assert time.monotonic() - began < 2.0


def test_it_has_to_be_told_where_to_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([], {})
    with pytest.raises(SystemExit):
        parse_arguments(["--namespace", "a", "--all-namespaces"], {})
    assert "--all-namespaces" in capsys.readouterr().err
    settings = parse_arguments(
        ["--namespace", "a"], {"POD_NAME": "p", "POD_NAMESPACE": "n", "SLIPWAY_PROMETHEUS_URL": "http://p"}
    )
    assert (settings.identity, settings.lease_namespace, settings.prometheus) == ("p", "n", "http://p")
