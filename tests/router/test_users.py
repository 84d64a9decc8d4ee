"""Whose request it is."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.serving.router.users import user_in_body, user_in_header


def v2(**tensor: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "user", "shape": [1], "datatype": "BYTES", **tensor}]}).encode()


@pytest.mark.parametrize(
    ("body", "user"),
    [
        (b'{"instances": [{"user": "42"}]}', "42"),
        (b'{"instances": [{"user": 42}]}', "42"),
        (b'{"instances": [{"user": -7}, {"user": "other"}]}', "-7"),
        ('{"instances": [{"user": "jürgen"}]}'.encode(), "jürgen"),
        (v2(data=["42", "43"]), "42"),
        (v2(data=[["42"]], shape=[1, 1]), "42"),
        (v2(data=[42], datatype="INT64"), "42"),
        (b'{"inputs": [{"name": "other", "data": ["1"]}, {"name": "user", "data": ["2"]}]}', "2"),
        (b'{"instances": [{"user": ""}]}', None),
        (b'{"instances": [{"user": true}]}', None),
        (b'{"instances": [{"user": null}, {"user": "2"}]}', None),
        (b'{"instances": []}', None),
        (b'{"instances": "42"}', None),
        (b'{"inputs": [{"name": "user", "data": []}]}', None),
        (b'{"inputs": [3]}', None),
        (b'["instances"]', None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
    ],
)
def test_json(body: bytes, user: str | None) -> None:
    assert user_in_body(body) == user


@pytest.mark.parametrize(
    ("datatype", "raw", "user"),
    [
        ("BYTES", struct.pack("<I", 2) + b"42" + struct.pack("<I", 1) + b"7", "42"),
        ("INT64", struct.pack("<q", -42), "-42"),
        ("UINT32", struct.pack("<I", 42), "42"),
        ("BYTES", struct.pack("<I", 99) + b"42", None),
        ("BYTES", b"\x01", None),
        ("BYTES", struct.pack("<I", 1) + b"\xff", None),
        ("FP32", struct.pack("<f", 1.0), None),
    ],
)
def test_binary_tensors(datatype: str, raw: bytes, user: str | None) -> None:
    first = {"name": "first", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}
    second = {"name": "user", "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [first, second]}).encode()
    assert user_in_body(head + b"\0\0\0\0" + raw, str(len(head)).encode()) == user


def test_a_length_of_json_that_is_none_names_nobody() -> None:
    assert user_in_body(v2(data=["42"]), b"-3") is None
    assert user_in_body(v2(data=["42"]), b"9" * 30) is None


@given(st.binary(max_size=200), st.none() | st.binary(max_size=5))
def test_no_body_is_too_strange(body: bytes, length: bytes | None) -> None:
    user_in_body(body, length)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["instances", "inputs", "user", "name", "data", "parameters", "binary_data_size"]),
            children,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries({"inputs": st.lists(json_values, max_size=2)})
    | st.fixed_dictionaries({"instances": json_values}),
    st.booleans(),
)
def test_no_json_is_too_strange(document: Any, binary: bool) -> None:
    body = json.dumps(document).encode()
    user = user_in_body(body + b"\1\0\0\0x", str(len(body)).encode() if binary else None)
    assert user is None or (isinstance(user, str) and user)


def test_header() -> None:
    assert user_in_header(b"42") == "42"
    assert user_in_header("jürgen".encode()) == "jürgen"
    assert user_in_header(b"") is None
    assert user_in_header(None) is None
    assert user_in_header(b"\xff") is None
