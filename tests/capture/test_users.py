"""Users count once: for the version that answered first, whatever restarts, however many collectors there are."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest

from slipway.contracts.events import FeedbackData, PredictionEvent, RequestSigner, load_or_create_key, prediction_event
from slipway.serving.capture.app import Collector
from slipway.serving.capture.counts import JoinedCounts, Outcome
from slipway.serving.capture.users import LocalUsers, RedisUsers, Sighting, UserMemory

SIGNER = RequestSigner(b"k" * 32)
START = 1_700_000_000.0


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    directory = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    deadline = time.monotonic() + 20
    while True:
        try:
            redis.Redis.from_url(url).ping()
            break
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture(params=["process", pytest.param("redis", marks=pytest.mark.integration)])
def maker(request: pytest.FixtureRequest) -> Any:
    """Returns a maker of memories; those in Redis made in one test share what they know."""
    if request.param == "process":
        return lambda **options: LocalUsers(**options)
    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushall()
    return lambda **options: RedisUsers(url, **options)


def sightings(*pairs: tuple[str, str], model: str = "films") -> list[Sighting]:
    return [Sighting(model, version, user) for version, user in pairs]


def test_a_user_counts_once_for_the_version_that_answers_first(maker: Any) -> None:
    async def play(memory: UserMemory) -> None:
        assert await memory.first(sightings(("1", "ann"), ("1", "bob"), ("1", "ann")), START) == [True, True, False]
        assert await memory.first(sightings(("1", "ann"), model="songs"), START + 1) == [True]
        # A second version begins to answer: from here on both count users from the same moment.
        asked = sightings(("2", "ann"), ("1", "bob"), ("2", "cid"), ("1", "ann"))
        assert await memory.first(asked, START + 2) == [True, True, True, False]
        # Whoever moves to another version was counted already, and is not counted there.
        assert await memory.first(sightings(("2", "bob"), ("1", "cid")), START + 3) == [False, False]
        await memory.close()

    asyncio.run(play(maker()))


def test_a_version_that_was_silent_for_long_is_another_rollout(maker: Any) -> None:
    async def play(memory: UserMemory) -> None:
        await memory.first(sightings(("1", "ann"), ("2", "bob")), START)
        for minute in range(1, 200):
            await memory.first(sightings(("1", "ann")), START + 60 * minute)
        assert await memory.first(sightings(("1", "ann"), ("1", "bob")), START + 12_000) == [False, False]
        assert await memory.first(sightings(("2", "ann"), ("1", "bob")), START + 12_001) == [True, True]
        await memory.close()

    asyncio.run(play(maker(quiet=3600.0)))


def test_memory_is_bounded_and_users_beyond_it_count_for_no_version(maker: Any) -> None:
    async def play(memory: UserMemory) -> list[bool]:
        asked = sightings(*((str(number % 2 + 1), f"user{number}") for number in range(40_000)))
        await memory.first(sightings(("1", "a"), ("2", "b")), START)
        first = await memory.first(asked, START + 1)
        await memory.close()
        return first

    first = asyncio.run(play(maker(maximum=20_480)))
    # In Redis the room is shared out over sets: those of average size hold all they may.
    assert 15_000 < sum(first) <= 20_480
    assert abs(sum(first[::2]) - sum(first[1::2])) < 600


@pytest.mark.integration
def test_collectors_share_what_redis_knows_and_a_restart_counts_nobody_twice(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushall()

    async def play() -> None:
        one, other = RedisUsers(redis_url, project="p"), RedisUsers(redis_url, project="p")
        users = sightings(*(("2", f"user{number}") for number in range(5000)))
        answers = await asyncio.gather(one.first(users, START), other.first(users, START))
        assert [sum(pair) for pair in zip(*answers, strict=True)] == [1] * 5000
        await one.close()
        again = RedisUsers(redis_url, project="p")
        assert sum(await again.first(users, START + 5)) == 0
        assert sum(await RedisUsers(redis_url, project="q").first(users[:10], START + 5)) == 10
        for memory in (other, again):
            await memory.close()

    asyncio.run(play())
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    keys = [key for key in client.scan_iter("slipway:p:*") if client.type(key) == "set"]
    assert {client.object("encoding", key) for key in keys} == {"intset"}
    assert all(0 < client.ttl(key) <= 30 * 86_400 for key in client.scan_iter("slipway:p:*"))


@pytest.mark.integration
def test_when_counting_starts_anew_the_old_sets_are_gone(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.flushall()

    async def play() -> None:
        memory = RedisUsers(redis_url)
        await memory.first(sightings(*(("1", f"user{number}") for number in range(3000))), START)
        await memory.first(sightings(("2", "ann")), START + 1)
        await memory.close()

    asyncio.run(play())
    assert len(set(client.scan_iter("slipway:*"))) == 2  # The versions, and the one set that ann is in.


def test_without_redis_nobody_is_counted_and_nobody_waits_long() -> None:
    async def play() -> list[bool]:
        memory = RedisUsers("redis://127.0.0.1:1/0")
        answer = await memory.first(sightings(("1", "ann"), ("2", "bob")), START)
        await memory.close()
        return answer

    started = time.monotonic()
    assert asyncio.run(play()) == [False, False]
    assert time.monotonic() - started < 3


def test_a_redis_that_hangs_holds_up_one_batch_and_not_every_one() -> None:
    async def play() -> float:
        silent = await asyncio.start_server(lambda *_: asyncio.sleep(30), "127.0.0.1", 0)
        memory = RedisUsers(f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}/0")
        await memory.first(sightings(("1", "ann")), START)
        started = time.monotonic()
        for _ in range(100):
            assert await memory.first(sightings(("1", "ann")), START) == [False]
        spent = time.monotonic() - started
        await memory.close()
        silent.close()
        return spent

    assert asyncio.run(play()) < 0.5


@pytest.mark.integration
def test_users_are_counted_again_when_redis_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.serving.capture.users._PAUSE_SECONDS", 0.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])

    async def play() -> None:
        memory = RedisUsers(f"redis://127.0.0.1:{port}/0")
        assert await memory.first(sightings(("1", "ann")), START) == [False]
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while await memory.first(sightings(("1", "ann")), START) != [True]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert await memory.first(sightings(("1", "ann")), START) == [False]
        finally:
            await memory.close()
            process.terminate()
            process.wait(10)

    asyncio.run(play())


class Day:
    """A collector on a clock of the test."""

    def __init__(self, directory: Path, users: UserMemory | None = None) -> None:
        self.now = START
        self.collector = Collector(
            SIGNER,
            wait=2.0,
            expiry=60.0,
            directory=directory,
            clock=lambda: self.now,
            users=users,
            maxima={"watch": 100.0},
        )

    def answer(self, *users: str, version: str = "2", items: str = "ab") -> str:
        data = {
            "request_id": SIGNER.issue("films", version, self.now),
            "model": "films",
            "version": version,
            "latency_ms": 1.0,
            "entities": [{"user": user, "items": [f"{item}{index}" for item in items],
                          "scores": [float(-place) for place in range(len(items))]}
                         for index, user in enumerate(users)],
        }  # fmt: skip
        event = PredictionEvent.model_validate(prediction_event(data, seconds=self.now))
        assert self.collector.joiner.prediction(event, self.now)
        asyncio.run(self.collector._meet([event]))
        return event.data.request_id

    def feedback(self, request_id: str, item: str = "a0", kind: str = "click", value: float | None = None) -> str:
        data = FeedbackData(request_id=request_id, item=item, type=kind, value=value)
        return self.collector.joiner.feedback(data, self.now)

    def after(self, seconds: float) -> dict[str, float]:
        """Lets time pass; returns the counters of version 2, by name (and type)."""
        self.now += seconds
        self.collector.advance(self.now)
        lines = generate_latest(self.collector.metrics.registry).decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("slipway_") and 'version="2"' in line and "measure=" not in line:
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0].removeprefix("slipway_").removesuffix("_total")] = float(value)
        return found

    def ranked(self, measure: str, unit: str = "request", kind: str = "click") -> tuple[float, float, float, float]:
        """Returns sum, sum of squares, number in them and number left out, of version 2."""
        labels = {"model": "films", "version": "2", "measure": measure, "type": kind, "unit": unit}
        names = ("joined_ranking", "joined_ranking_squares", "joined_ranked", "joined_unranked")
        registry = self.collector.metrics.registry
        sums = [registry.get_sample_value(f"slipway_{name}_total", labels) for name in names]
        return tuple(-1.0 if value is None else value for value in sums)  # type: ignore[return-value]


def test_users_and_requests_are_counted_when_the_waiting_time_of_the_first_request_is_over(tmp_path: Path) -> None:
    day = Day(tmp_path)
    first = day.answer("ann")
    second = day.answer("ann")
    third = day.answer("bob")
    assert day.after(1.0) | {"scores": 0} == {
        "new_users": 2, "joined_requests": 0, "joined_clicked_requests": 0, "joined_value": 0,
        "joined_value_squares": 0, "joined_users": 0, "joined_clicked_users": 0, "joined_user_value": 0,
        "joined_user_value_squares": 0, "scores": 0,
    }  # fmt: skip
    day.feedback(first)
    day.feedback(first, kind="watch", value=30.0)
    day.feedback(first, "b0", kind="watch", value=200.0)  # Together beyond the maximum: counts as 100.
    day.feedback(second)
    day.feedback(third, kind="watch", value=-5.0)
    counts = day.after(1.5)
    assert (counts["joined_requests"], counts["joined_clicked_requests"]) == (3, 2)
    assert (counts["joined_users"], counts["joined_clicked_users"]) == (2, 1)
    assert (counts["joined_value"], counts["joined_value_squares"]) == (100, 10_000)
    assert (counts["joined_user_value"], counts["joined_user_value_squares"]) == (100, 10_000)


def test_a_request_for_several_users_is_that_of_its_first(tmp_path: Path) -> None:
    day = Day(tmp_path)
    request = day.answer("ann", "bob")
    day.feedback(request, "a1")  # Bob's click is a click of the request, and not of Ann.
    day.feedback(request, "b0", kind="watch", value=10.0)
    counts = day.after(2.5)
    assert (counts["joined_clicked_requests"], counts["joined_clicked_users"]) == (1, 0)
    assert (counts["new_users"], counts["joined_users"], counts["joined_user_value"]) == (1, 1, 10)


def test_a_click_on_a_later_request_is_not_one_on_the_first(tmp_path: Path) -> None:
    day = Day(tmp_path)
    day.answer("ann")
    day.after(1.0)
    day.feedback(day.answer("ann"))
    counts = day.after(5.0)
    assert (counts["joined_requests"], counts["joined_clicked_requests"]) == (2, 1)
    assert (counts["joined_users"], counts["joined_clicked_users"]) == (1, 0)


def test_a_scrape_never_sees_a_click_without_its_request() -> None:
    registry = CollectorRegistry()
    counts = JoinedCounts(registry, ("watch",))
    torn, done = [], threading.Event()

    def scrape() -> None:
        while not done.is_set():
            page = {line.partition("{")[0]: float(line.rpartition(" ")[2])
                    for line in generate_latest(registry).decode().splitlines()
                    if line.startswith("slipway")}  # fmt: skip
            numbers = {
                page.get(f"slipway_joined_{name}_total", 0) for name in ("requests", "clicked_requests", "value")
            }
            torn.append(len(numbers) > 1)

    thread = threading.Thread(target=scrape)
    thread.start()
    while len(torn) < 30:
        for _ in range(200):
            counts.joined("films", "2", Outcome(True, {"watch": 1.0}), None)
    done.set()
    thread.join()
    assert not any(torn)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(port: int, method: str, path: str, body: Any = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body).encode())
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def shown(port: int, metric: str) -> float:
    """Returns a counter of version 2 as a scrape sees it."""
    page = call(port, "GET", "/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in page if line.startswith(f"{metric}{{") and '"2"' in line)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.integration
def test_a_collector_that_was_killed_counts_no_user_twice(redis_url: str, tmp_path: Path) -> None:
    redis.Redis.from_url(redis_url).flushall()
    signer = RequestSigner(load_or_create_key(tmp_path / "key"))

    def start(port: int, metrics_port: int) -> subprocess.Popen[bytes]:
        command = (
            *(
                sys.executable,
                "-m",
                "slipway.serving.capture",
                "--port",
                str(port),
                "--metrics-port",
                str(metrics_port),
            ),
            *("--key-file", str(tmp_path / "key"), "--wait", "0.5", "--expiry", "60"),
            *("--directory", str(tmp_path / "captured"), "--redis", redis_url, "--project", "films"),
            "--value=watch=100.0",
        )
        process = subprocess.Popen(command)
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        return process

    def ask(port: int, user: str, watched: float) -> None:
        now = time.time()
        data = {
            "request_id": signer.issue("films", "2", now), "model": "films", "version": "2", "latency_ms": 1.0,
            "entities": [{"user": signer.hash_user(user), "items": ["a"]}],
        }  # fmt: skip
        assert json.loads(call(port, "POST", "/events", [prediction_event(data, seconds=now)]))["accepted"] == 1
        feedback = {"request_id": data["request_id"], "item": "a", "type": "watch", "value": watched}
        assert json.loads(call(port, "POST", "/v1/feedback", feedback)) == {"outcome": "accepted"}

    port, metrics_port = free_port(), free_port()
    first = start(port, metrics_port)
    ask(port, "ann", 40.0)
    wait_for(lambda: shown(metrics_port, "slipway_joined_users_total") == 1)
    assert shown(metrics_port, "slipway_joined_user_value_squares_total") == 1600
    first.kill()
    first.wait(10)
    port, metrics_port = free_port(), free_port()
    second = start(port, metrics_port)
    ask(port, "ann", 10.0)
    ask(port, "bob", 20.0)
    wait_for(lambda: shown(metrics_port, "slipway_joined_requests_total") == 2)
    assert shown(metrics_port, "slipway_joined_users_total") == 1
    assert shown(metrics_port, "slipway_joined_user_value_total") == 20
    second.terminate()
    assert second.wait(10) == 0
