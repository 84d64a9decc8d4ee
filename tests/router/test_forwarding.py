"""What the router does to a request and to its answer."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import time
from http.client import HTTPConnection
from typing import Any

import pytest

from slipway.serving.router.assignment import Assignment

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("router")]
ASSIGNMENT = Assignment("s", "films", {"films-v1": 50, "films-v2": 50})
LARGE = 8 << 20
ECHO = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_user_always_gets_the_same_arm_however_named(shared: Any) -> None:
    for user in ("1", "2", "3", "4", "5", "6", "7", "8"):
        arm = ASSIGNMENT.arm_of(user)
        raw = struct.pack("<I", len(user)) + user.encode()
        head = (
            b'{"inputs":[{"name":"user","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}]}'
            % len(raw)
        )
        binary = {"Inference-Header-Content-Length": str(len(head))}
        tensor = {"name": "user", "shape": [1], "datatype": "BYTES", "data": [user]}
        answers = [
            shared.ask("/v1/models/films:predict", {"instances": [{"user": user}, {"user": "another"}]}),
            shared.ask("/v1/models/films:predict", {"instances": [{"user": int(user)}]}),
            shared.ask("/v2/models/films/infer", {"inputs": [tensor]}),
            shared.ask("/v2/models/films/infer", head + raw, headers=binary),
            shared.ask("/v2/models/films", headers={"x-slipway-user": user}),
            shared.ask(body={"inputs": "malformed"}, headers={"X-Slipway-User": user}),
        ]
        assert [answer.arm for answer in answers] == [arm] * len(answers)


def test_the_body_goes_before_the_header(shared: Any) -> None:
    other = next(str(n) for n in range(99) if ASSIGNMENT.arm_of(str(n)) != ASSIGNMENT.arm_of("1"))
    assert shared.ask(body={"instances": [{"user": "1"}]}, headers={"x-slipway-user": other}).arm == ASSIGNMENT.arm_of(
        "1"
    )


def test_a_request_of_nobody_is_drawn(shared: Any) -> None:
    before = shared.metric("slipway_assigned_requests_total", by="draw")
    users = shared.metric("slipway_assigned_users_total")
    arms = {shared.ask().arm for _ in range(40)}
    assert arms == {"films-v1", "films-v2"}  # wrong once in 2^39
    assert shared.metric("slipway_assigned_requests_total", by="draw") == before + 40
    assert shared.metric("slipway_assigned_users_total") == users


def test_requests_and_users_are_counted(shared: Any) -> None:
    def counts() -> list[float]:
        by_arm = [
            shared.metric("slipway_assigned_requests_total", arm=arm, by="user") for arm in ("films-v1", "films-v2")
        ]
        return [*by_arm, shared.metric("slipway_assigned_users_total")]

    before = counts()
    for user in ("counted-1", "counted-2", "counted-1"):
        shared.arm_of(user)
    after = counts()
    assert after[0] + after[1] == before[0] + before[1] + 3
    assert after[2] == before[2] + 2
    index = 0 if ASSIGNMENT.arm_of("counted-1") == "films-v1" else 1
    assert after[index] >= before[index] + 2


def test_the_request_is_passed_on_unchanged(shared: Any) -> None:
    body = bytes(range(256)) * 200
    headers = {"X-Slipway-Arm": "films-v9", "Content-Type": "application/octet-stream", "X-Request-Id": "abc"}
    answer = shared.ask("/echo?a=b%20c", body, "PUT", headers)
    assert answer.json["method"] == "PUT"
    assert answer.json["path"] == "/echo?a=b%20c"
    assert answer.json["sha256"] == hashlib.sha256(body).hexdigest()
    assert answer.seen["content-length"] == [str(len(body))]
    assert answer.seen["content-type"] == ["application/octet-stream"]
    assert answer.seen["x-request-id"] == ["abc"]
    assert answer.seen["host"] == [f"127.0.0.1:{shared.port}"]
    assert answer.arm in ("films-v1", "films-v2")


def test_what_concerns_the_connection_stays_here(shared: Any) -> None:
    raw = (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close, X-Mine, Content-Length, X-Slipway-User\r\nX-Mine: 1\r\n"
        b"X-Slipway-Arm: a\r\nx-slipway-arm: b\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Slipway-User: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    text = shared.raw(raw).decode()
    assert '"length": 3' in text
    assert '["content-length", "3"]' in text
    assert f'["x-slipway-arm", "{ASSIGNMENT.arm_of("1")}"]' in text
    assert text.count("x-slipway-arm") == 1
    for name in ("x-mine", "keep-alive", '"te"', "transfer-encoding", "x-trailer"):
        assert name not in text.partition("\r\n\r\n")[2].lower()
    assert "\r\nconnection: close\r\n" in text


def test_code_reason_and_headers_come_back(shared: Any) -> None:
    for code in (200, 404, 429, 500, 503):
        answer = shared.ask(f"/status/{code}")
        assert (answer.status, answer.reason) == (code, "Because I Say So")
        assert [value for name, value in answer.headers if name == "X-Kept"] == ["yes", "twice"]
        assert "X-Hop" not in dict(answer.headers)


def test_bodies_without_a_length_come_back_whole(shared: Any) -> None:
    chunked = shared.ask("/chunked")
    assert chunked.json["path"] == "/chunked"
    assert dict(chunked.headers)["X-Kept"] == "yes"
    assert "X-Trailer" not in dict(chunked.headers)
    assert shared.ask("/until-close").json["path"] == "/until-close"
    old = shared.raw(b"GET /chunked HTTP/1.0\r\n\r\n").decode()
    assert "transfer-encoding" not in old.lower().partition("\r\n\r\n")[0]
    assert old.rstrip().endswith("}")
    assert old.partition("\r\n\r\n")[2].startswith('{"method"')


def test_interim_answers_and_heads_do_not_confuse_it(shared: Any) -> None:
    assert shared.ask("/continue").json["path"] == "/continue"
    head = shared.ask("/echo", method="HEAD")
    assert head.status == 200
    assert head.body == b""
    assert int(dict(head.headers)["Content-Length"]) > 0
    assert shared.ask().status == 200


def test_a_client_that_waits_to_send_its_body_is_told_to(shared: Any) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"abc")
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"expect"' not in answer


def test_a_wish_for_another_protocol_is_passed_over(shared: Any) -> None:
    answer = shared.raw(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAA\r\nContent-Length: 3\r\n\r\nabc" + ECHO,
        until=b'"path": "/echo"',
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"length": 3' in answer
    assert b"upgrade" not in answer.lower()


def test_requests_sent_in_one_go_are_answered_in_order(shared: Any) -> None:
    paths = [f"/echo/{index}" for index in range(20)]
    data = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    answer = shared.raw(data, until=b'"path": "/echo/19"').decode()
    positions = [answer.index(f'"path": "{path}"') for path in paths]
    assert positions == sorted(positions)


def test_connections_are_kept_on_both_sides(shared: Any) -> None:
    connection = HTTPConnection("127.0.0.1", shared.port, timeout=20)
    opened: list[int] = []
    for _ in range(10):
        connection.request("GET", "/echo")
        response = connection.getresponse()
        opened.append(json.loads(response.read())["connections"])
    connection.close()
    assert opened[-1] == opened[1], "a new connection to the server for each request"


def test_a_slow_client_gets_a_large_answer_whole(shared: Any) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = bytearray()
        # The pace of the client: longer in all than the router waits for a client to close its side.
        while part := client.recv(65536):
            received += part
            time.sleep(4 * len(part) / LARGE)
    assert len(received.partition(b"\r\n\r\n")[2]) == LARGE


def test_an_answer_that_breaks_off_does_not_look_whole(shared: Any) -> None:
    text = shared.raw(b"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n").decode()
    head, _, body = text.partition("\r\n\r\n")
    assert "Content-Length: 1000" in head
    assert len(body) < 1000


def test_an_answer_that_is_none_is_a_502(shared: Any) -> None:
    before = shared.metric("slipway_router_failures_total", code="502")
    answer = shared.ask("/garbage")
    assert answer.status == 502
    assert "no valid answer" in answer.json["error"]
    assert shared.metric("slipway_router_failures_total", code="502") == before + 1
    assert shared.ask().status == 200


def test_a_kept_connection_that_the_server_closed_loses_no_request(shared: Any) -> None:
    for _ in range(20):
        assert shared.ask("/once").status == 200
        assert shared.ask("/echo").status == 200


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"no http at all\r\n\r\n", 400, "not valid HTTP"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "not valid"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, "not valid"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: -3\r\n\r\n", 400, "not valid"),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "transfer coding"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "CONNECT"),
        (b"GET /echo HTTP/1.1\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n", 431, "65,536"),
        (b"GET /echo HTTP/1.1\r\nX-Endless: " + b"x" * 300_000, 431, "65,536"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 100001\r\n\r\n", 413, "100,000"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n", 413, "100,000"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n", 413, "100,000"),
        (
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"ffff\r\n" + b"x" * 65535 + b"\r\n") * 2
            + b"0\r\n\r\n",
            413,
            "100,000",
        ),
    ],
)
def test_what_cannot_be_forwarded_is_refused_with_its_reason(shared: Any, data: bytes, status: int, says: str) -> None:
    answer = shared.raw(data).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert says in answer
    assert "connection: close" in answer
    assert shared.ask().status == 200


def test_a_refusal_waits_for_the_answers_before_it(shared: Any) -> None:
    answer = shared.raw(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + b"nonsense\r\n\r\n").decode()
    assert answer.index("200 OK") < answer.index("400 Bad Request")


def test_a_client_that_goes_away_costs_the_others_nothing(shared: Any) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", shared.port)) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        with socket.create_connection(("127.0.0.1", shared.port)) as client:
            client.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    assert shared.ask().status == 200
    assert "Traceback" not in shared.log


def test_it_says_what_is_in_force_and_never_the_salt(shared: Any) -> None:
    assert shared.ask("/-/ready").json == {"ready": True}
    answer = shared.ask("/-/assignment").json
    assert answer == {
        "layer": "films",
        "arms": {"films-v1": 50, "films-v2": 50},
        "stable": "films-v1",
        "problem": None,
    }
    assert shared.eventually(lambda: shared.metric("slipway_assignment_file_valid") == 1)
    assert shared.metric("slipway_assignment_weight", arm="films-v2") == 50
