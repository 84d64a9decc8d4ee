"""Whatever a client sends, it gets a 4xx with a reason, and the connection goes on working."""

from __future__ import annotations

import http.client
import json
import struct
from typing import Any

import pytest

pytestmark = pytest.mark.integration

V1 = "/v1/models/films:predict"
V2 = "/v2/models/films/infer"
JSON = {"Content-Type": "application/json"}


def one(**fields: Any) -> Any:
    return {"instances": [fields]}


def tensor(**changes: Any) -> Any:
    base = {"name": "user", "shape": [1], "datatype": "BYTES", "data": ["1"]}
    return {"inputs": [{key: value for key, value in (base | changes).items() if value is not Ellipsis}]}


V1_BODIES: dict[str, Any] = {
    "empty body": b"",
    "spaces": b"   ",
    "not JSON": b"{instances: 1}",
    "cut JSON": b'{"instances": [{"user": "1"',
    "not UTF-8": b'{"instances": [{"user": "\xff\xfe"}]}',
    "half surrogate": b'{"instances": [{"user": "\\ud800"}]}',
    "zero character": b'{"instances": [{"user": "a\\u0000"}]}',
    "NaN": b'{"instances": [{"user": NaN}]}',
    "infinity": b'{"instances": [{"user": "1", "k": Infinity}]}',
    "deep nesting": b'{"instances": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "null": None,
    "number": 42,
    "string": "instances",
    "list": [{"user": "1"}],
    "no instances": {},
    "other field": {"inputs": []},
    "extra field": {"instances": [{"user": "1"}], "signature_name": "x"},
    "instances null": {"instances": None},
    "instances object": {"instances": {"user": "1"}},
    "instances string": {"instances": "1"},
    "no instance": {"instances": []},
    "too many instances": {"instances": [{"user": "1"}] * 65},
    "instance null": {"instances": [None]},
    "instance number": {"instances": [1.5]},
    "instance list": {"instances": [[1, 2]]},
    "second instance wrong": {"instances": [{"user": "1"}, {"uesr": "1"}]},
    "no user": one(k=3),
    "user null": one(user=None),
    "user float": one(user=1.5),
    "user boolean": one(user=True),
    "user list": one(user=["1"]),
    "user object": one(user={"id": 1}),
    "user empty": one(user=""),
    "user long": one(user="x" * 257),
    "user huge integer": b'{"instances": [{"user": 123456789012345678901234567890}]}',
    "k zero": one(user="1", k=0),
    "k negative": one(user="1", k=-1),
    "k huge": one(user="1", k=10**9),
    "k beyond 64 bits": b'{"instances": [{"user": "1", "k": 99999999999999999999999}]}',
    "k float": one(user="1", k=2.5),
    "k string": one(user="1", k="10"),
    "k boolean": one(user="1", k=True),
    "k null": one(user="1", k=None),
    "exclude_seen string": one(user="1", exclude_seen="yes"),
    "exclude_seen number": one(user="1", exclude_seen=1),
    "exclude string": one(user="1", exclude="film-1"),
    "exclude of null": one(user="1", exclude=[None]),
    "exclude too many": one(user="1", exclude=[str(item) for item in range(1001)]),
    "unknown field": one(user="1", top=10),
    "too large": b'{"instances": [{"user": "' + b"x" * 70_000 + b'"}]}',
}

V2_BODIES: dict[str, Any] = {
    "empty body": b"",
    "not JSON": b"{]",
    "NaN": b'{"inputs": [{"name": "user", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
    "list": [],
    "null": None,
    "no inputs": {},
    "inputs null": {"inputs": None},
    "inputs object": {"inputs": {"name": "user"}},
    "no input": {"inputs": []},
    "input null": {"inputs": [None]},
    "two inputs": {"inputs": tensor()["inputs"] * 2},
    "other name": tensor(name="uid"),
    "no name": tensor(name=...),
    "no shape": tensor(shape=...),
    "no datatype": tensor(datatype=...),
    "no data": tensor(data=...),
    "name number": tensor(name=7),
    "shape string": tensor(shape="1"),
    "shape empty": tensor(shape=[]),
    "shape zero": tensor(shape=[0], data=[]),
    "shape minus one": tensor(shape=[-1]),
    "shape too small": tensor(shape=[1], data=["1", "2"]),
    "shape too large": tensor(shape=[3]),
    "shape huge": tensor(shape=[2**62]),
    "shape beyond 64 bits": tensor(shape=[99999999999999999999]),
    "shape fraction": tensor(shape=[1.5]),
    "three dimensions": tensor(shape=[1, 1, 1]),
    "wide": tensor(shape=[1, 2], data=["1", "2"]),
    "unknown datatype": tensor(datatype="STRING"),
    "datatype number": tensor(datatype=3),
    "floats": tensor(datatype="FP32", data=[1.0]),
    "null in FP32": tensor(datatype="FP32", data=[None]),
    "null in BYTES": tensor(data=[None]),
    "integers in BYTES": tensor(data=[1]),
    "strings in INT64": tensor(datatype="INT64", data=["1"]),
    "booleans in INT64": tensor(datatype="INT64", data=[True]),
    "integer beyond 64 bits": b'{"inputs": [{"name": "user", "shape": [1], "datatype": "INT64", "data": [1e400]}]}',
    "data object": tensor(data={"0": "1"}),
    "data nested": tensor(data=[[["1"]]]),
    "FP16 in JSON": tensor(datatype="FP16", data=[1.0]),
    "parameters list": tensor() | {"parameters": [1]},
    "unknown parameter": tensor() | {"parameters": {"top": 3}},
    "k zero": tensor() | {"parameters": {"k": 0}},
    "k string": tensor() | {"parameters": {"k": "ten"}},
    "unknown output": tensor() | {"outputs": [{"name": "items"}]},
    "output without name": tensor() | {"outputs": [{}]},
    "too many rows": tensor(shape=[65], data=["1"] * 65),
    "id object": tensor() | {"id": {"a": 1}},
}


def binary(header: Any, length: str | None, raw: bytes = b"") -> tuple[bytes, dict[str, str]]:
    body = json.dumps(header).encode() if not isinstance(header, bytes) else header
    headers = {"Content-Type": "application/octet-stream"}
    if length is not None:
        headers["Inference-Header-Content-Length"] = length.replace("LENGTH", str(len(body)))
    return body + raw, headers


def sized(size: Any, **changes: Any) -> Any:
    return tensor(data=..., parameters={"binary_data_size": size}, **changes)


V2_BINARY: dict[str, tuple[bytes, dict[str, str]]] = {
    "no length": binary(sized(5), None, b"\x01\0\0\0" + b"1"),
    "length no number": binary(sized(5), "abc", b""),
    "length negative": binary(sized(5), "-1", b""),
    "length too large": binary(sized(5), "999999", b""),
    "header no object": binary([1], "LENGTH"),
    "header without inputs": binary({}, "LENGTH"),
    "header not JSON": binary(b"{]", "LENGTH"),
    "size absent": binary(tensor(data=...), "LENGTH"),
    "size string": binary(sized("5"), "LENGTH", b"\x01\0\0\0" + b"1"),
    "size negative": binary(sized(-3), "LENGTH", b"\x01\0\0\0" + b"1"),
    "value cut": binary(sized(5), "LENGTH", b"\x09\0\0\0" + b"1"),
    "length of value huge": binary(sized(5), "LENGTH", struct.pack("<I", 2**32 - 1) + b"1"),
    "shape and bytes differ": binary(sized(12, datatype="INT64", shape=[2]), "LENGTH", b"\0" * 12),
    "shape null": binary(sized(8, datatype="INT64", shape=None), "LENGTH", b"\0" * 8),
    "floats": binary(sized(4, datatype="FP32"), "LENGTH", b"\0\0\xc0\x7f"),
    "not UTF-8": binary(sized(6), "LENGTH", struct.pack("<I", 2) + b"\xff\xfe"),
    "number as name": binary({"inputs": [7]}, "LENGTH"),
}

REQUESTS: dict[str, tuple[str, str, bytes, dict[str, str], int]] = {
    "form": ("POST", V1, b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "text": ("POST", V1, b"hello", {"Content-Type": "text/plain"}, 415),
    "raw bytes to V1": ("POST", V1, b"\0\1", {"Content-Type": "application/octet-stream"}, 415),
    "structured cloud event": (
        "POST",
        V1,
        b'{"specversion": "1.0"}',
        {"Content-Type": "application/cloudevents+json"},
        415,
    ),
    "binary cloud event": (
        "POST",
        V1,
        b"",
        {**JSON, "ce-id": "1", "ce-source": "x", "ce-type": "y", "ce-specversion": "1.0"},
        400,
    ),
    "compressed": ("POST", V1, b"\x1f\x8b", {**JSON, "Content-Encoding": "gzip"}, 415),
    "other model V1": ("POST", "/v1/models/books:predict", b"{}", JSON, 404),
    "other model V2": ("POST", "/v2/models/books/infer", b"{}", JSON, 404),
    "other version": ("POST", "/v2/models/films/versions/3/infer", b"{}", JSON, 404),
    "other version's readiness": ("GET", "/v2/models/films/versions/3/ready", b"", {}, 404),
    "explain V1": ("POST", "/v1/models/films:explain", b"{}", JSON, 404),
    "explain V2": ("POST", "/v2/models/films/explain", b"{}", JSON, 404),
    "unload": ("POST", "/v2/repository/models/films/unload", b"", JSON, 404),
    "load": ("POST", "/v2/repository/models/films/load", b"", JSON, 404),
    "index": ("POST", "/v2/repository/index", b"", JSON, 404),
    "metrics": ("GET", "/metrics", b"", {}, 404),
    "documentation": ("GET", "/docs", b"", {}, 404),
    "schema": ("GET", "/openapi.json", b"", {}, 404),
    "GET of a prediction": ("GET", V1, b"", {}, 405),
    "DELETE of a model": ("DELETE", "/v1/models/films", b"", {}, 405),
    "PUT": ("PUT", V2, b"{}", JSON, 405),
    "odd path": ("POST", "/v1/models/films%00:predict", b"{}", JSON, 404),
}


def corpus() -> dict[str, tuple[str, str, bytes, dict[str, str], int | None]]:
    everything: dict[str, tuple[str, str, bytes, dict[str, str], int | None]] = {}
    for path, bodies in ((V1, V1_BODIES), (V2, V2_BODIES)):
        for name, body in bodies.items():
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            everything[f"{path[1:3]} {name}"] = ("POST", path, raw, JSON, None)
    for name, (raw, headers) in V2_BINARY.items():
        everything[f"v2 binary {name}"] = ("POST", V2, raw, headers, None)
    return everything | REQUESTS  # type: ignore[return-value]


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_no_malformed_request_gets_a_5xx_and_its_connection_answers_the_next_request(predictor: Any) -> None:
    requests = corpus()
    assert len(requests) >= 52
    connection = predictor.connection()
    connection.connect()
    local_address = connection.sock.getsockname()
    wrong: dict[str, Any] = {}
    for name, (method, path, body, headers, expected) in requests.items():
        status, answer = ask(connection, method, path, body, headers)
        if not 400 <= status < 500 or (expected and status != expected) or not str(answer.get("error", "")).strip():
            wrong[name] = (status, answer)
        status, answer = ask(connection, "POST", V1, b'{"instances": [{"user": "1"}]}', JSON)
        assert status == 200, (name, answer)
        assert connection.sock is not None, f"the connection was closed after: {name}"
        assert connection.sock.getsockname() == local_address, f"the connection was closed after: {name}"
    assert not wrong
    assert predictor.metrics()['slipway_requests_total{code="500",model="films",version="2"}'] == 0


def test_a_body_far_beyond_the_limit_is_refused_unread_and_one_without_length_is_counted(predictor: Any) -> None:
    connection = predictor.connection()
    connection.putrequest("POST", V1)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()

    connection = predictor.connection()
    connection.request("POST", V1, iter([b"x" * 10_000] * 10), JSON, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert b"65,536 bytes" in response.read()


def test_a_refusal_names_the_place_and_the_remedy(predictor: Any) -> None:
    status, answer = predictor.predict({"user": "1"}, {"user": "2", "k": 0})
    assert (status, answer) == (400, {"error": "instances[1].k must be between 1 and 1000"})
    status, answer = predictor.predict({"user": "1", "top_k": 3})
    assert status == 400
    assert "unknown field 'top_k'; known are exclude, exclude_seen, k, user" in answer["error"]


def test_a_content_type_with_a_charset_or_none_at_all_is_read_as_json(predictor: Any) -> None:
    connection = predictor.connection()
    for headers in ({"Content-Type": "Application/JSON; charset=utf-8"}, {}):
        for path, body in ((V1, one(user="1")), (V2, tensor())):
            status, answer = ask(connection, "POST", path, json.dumps(body).encode(), headers)
            assert status == 200, answer
