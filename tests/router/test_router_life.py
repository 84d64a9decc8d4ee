"""Start, change and end of a router: no request is lost, and a broken file changes nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from slipway.contracts.files import write_atomically
from slipway.serving.router.assignment import Assignment

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("router")]


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_is_not_ready_before_the_file_was_read(own: Any) -> None:
    write_atomically(own.file, '{"salt": "s"')
    own.start_router(wait=False)
    own.eventually(lambda: "waiting for one that can be read" in own.log)
    assert refuses(own.port)
    assert refuses(own.metrics_port)
    own.write(films_v1=100)
    own.eventually(lambda: not refuses(own.port))
    assert own.ask("/-/ready").json == {"ready": True}
    assert own.ask().arm == "films-v1"
    assert own.stop_router() == 0


def test_it_ends_while_it_waits_for_the_file(own: Any) -> None:
    own.start_router(wait=False)
    own.eventually(lambda: "waiting for one that can be read" in own.log)
    assert own.stop_router() == 0


def test_changed_weights_move_users_one_way_only(own: Any) -> None:
    users = [str(number) for number in range(60)]
    own.write(films_v1=90, films_v2=10)
    own.start_router()
    before: set[str] = set()
    for share in (10, 30, 70, 100):
        own.write(films_v1=100 - share, films_v2=share)
        own.eventually(lambda share=share: own.ask("/-/assignment").json["arms"]["films-v2"] == share)
        after = {user for user in users if own.arm_of(user) == "films-v2"}
        wanted = Assignment("s", "films", {"films-v1": 100 - share, "films-v2": share})
        assert after == {user for user in users if wanted.arm_of(user) == "films-v2"}
        assert before <= after
        before = after
    assert before == set(users)
    assert own.metric("slipway_assigned_users_total") == 4 * len(users), "each counted once under each set of weights"


def test_a_broken_file_keeps_the_last_good_one(own: Any) -> None:
    own.write(films_v1=0, films_v2=100)
    own.start_router()
    half = '{"salt": "s", "layer": "films", "arms": {"films-v1": 50}}'
    for broken, says in (("[]", "not a JSON object"), ("{", "not JSON"), (half, "sum to 50")):
        write_atomically(own.file, broken)
        own.eventually(lambda says=says: says in str(own.ask("/-/assignment").json["problem"]))
        own.eventually(lambda: own.metric("slipway_assignment_file_valid") == 0)
        assert own.ask().arm == "films-v2"
    own.file.unlink()
    own.eventually(lambda: "No such file" in own.ask("/-/assignment").json["problem"])
    assert own.ask().arm == "films-v2"
    assert own.log.count("the last good one stays in force") == 4
    own.write(films_v1=100, films_v2=0)
    own.eventually(lambda: own.ask().arm == "films-v1")
    assert own.ask("/-/assignment").json["problem"] is None


def test_a_server_that_is_away_is_a_502_with_its_reason_until_it_is_back(own: Any) -> None:
    own.write(films_v1=100)
    own.start_router()
    assert own.ask().status == 200
    own.stop_upstream()
    for method, body in (("POST", b"{}"), ("GET", None)):
        answer = own.ask(body=body, method=method)
        assert answer.status == 502
        assert "cannot be reached (connection refused)" in answer.json["error"]
    head = own.ask(method="HEAD")
    assert (head.status, head.body) == (502, b"")
    own.start_upstream()
    assert own.ask().status == 200


def test_weights_change_under_load_and_the_end_loses_no_request(own: Any) -> None:
    own.write(films_v1=100, films_v2=0)
    own.start_router()
    codes: Counter[int] = Counter()
    arms: Counter[str] = Counter()
    done = threading.Event()

    def client(number: int) -> None:
        while not done.is_set():
            answer = own.ask(body={"instances": [{"user": str(number)}]})
            codes[answer.status] += 1
            arms[answer.arm] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for share in (20, 60, 100):
        own.write(films_v1=100 - share, films_v2=share)
        seen = sum(codes.values())
        own.eventually(lambda share=share: own.ask("/-/assignment").json["arms"]["films-v2"] == share)
        own.eventually(lambda seen=seen: sum(codes.values()) > seen + 50)
    done.set()
    for thread in threads:
        thread.join()
    assert set(codes) == {200}
    assert arms["films-v1"] > 0
    assert arms["films-v2"] > 0


def test_the_signal_to_end_lets_what_is_in_flight_finish(own: Any) -> None:
    own.write(films_v1=100)
    own.start_router()
    idle = socket.create_connection(("127.0.0.1", own.port), timeout=20)
    idle.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert idle.recv(65536).startswith(b"HTTP/1.1 200")
    half = socket.create_connection(("127.0.0.1", own.port), timeout=20)
    half.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
    busy = socket.create_connection(("127.0.0.1", own.port), timeout=20)
    seen = own.ask().json["requests"]
    busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    own.eventually(lambda: own.ask().json["requests"] > seen + 1)
    own.router.send_signal(signal.SIGTERM)
    own.eventually(lambda: refuses(own.port))
    half.sendall(b"def")
    for connection, path in ((busy, b"/slow"), (half, b"/echo")):
        answer = b""
        while part := connection.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert path in answer
        assert b"connection: close" in answer
        connection.close()
    assert idle.recv(100) == b""
    idle.close()
    assert own.router.wait(timeout=20) == 0


def test_a_client_that_never_ends_is_cut_off_after_the_grace(own: Any) -> None:
    own.options = ("--grace-seconds", "0.2")
    own.write(films_v1=100)
    own.start_router()
    with socket.create_connection(("127.0.0.1", own.port), timeout=20) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        own.eventually(lambda: own.ask().status == 200)
        assert own.stop_router() == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--upstream", "https://127.0.0.1:1"), "http://host:port"),
        (("--upstream", "http://127.0.0.1:99999"), "--upstream"),
        (("--upstream", "http://127.0.0.1:1/path"), "http://host:port"),
        (("--maximum-body", "0"), "at least 1"),
    ],
)
def test_wrong_options_end_with_code_2(own: Any, options: tuple[str, ...], says: str) -> None:
    command = [sys.executable, "-m", "slipway.serving.router", "--port", "1", "--assignment", str(own.file)]
    defaults = () if "--upstream" in options else ("--upstream", "http://127.0.0.1:1")
    run = subprocess.run([*command, *defaults, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert says in run.stderr


def test_a_taken_port_is_said(own: Any) -> None:
    own.port = own.upstream_port
    own.write(films_v1=100)
    own.start_router(wait=False)
    assert own.router.wait(timeout=20) == 1
    assert f"port {own.port} cannot be opened" in own.log
