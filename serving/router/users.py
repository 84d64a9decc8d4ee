"""Whose request it is: the first user named in the body, else the one that a header names.

V1: {"instances": [{"user": "42"}, ...]}. V2: the input named `user`, as JSON or as binary tensor. What is malformed
names nobody; the predictor says what is wrong with it.
"""

from __future__ import annotations

import struct
from typing import Any

import orjson

USER_HEADER = b"x-slipway-user"
JSON_LENGTH_HEADER = b"inference-header-content-length"
_INTEGERS = {"INT32": "<i", "INT64": "<q", "UINT32": "<I", "UINT64": "<Q"}


def user_in_body(body: bytes, json_length: bytes | None = None) -> str | None:
    """Returns the first user that a V1 or V2 request names, or None.

    Numbers and their decimal texts are the same user, as they are to the predictor.

    Args:
        body: The whole body.
        json_length: Value of the header that says where the JSON of a V2 request ends and binary tensors begin.
    """
    head, raw = body, b""
    if json_length is not None:
        if not json_length.isdigit() or len(json_length) > 18:
            return None
        head, raw = body[: int(json_length)], body[int(json_length) :]
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    instances = document.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], dict):
        return _text(instances[0].get("user"))
    inputs = document.get("inputs")
    return _first_of_inputs(inputs, raw) if isinstance(inputs, list) else None


def user_in_header(value: bytes | None) -> str | None:
    """Returns the user that the header names, or None where it is absent, empty or not UTF-8."""
    try:
        return value.decode() or None if value is not None else None
    except UnicodeDecodeError:
        return None


def _first_of_inputs(inputs: list[Any], raw: bytes) -> str | None:
    offset = 0
    for tensor in inputs:
        if not isinstance(tensor, dict):
            return None
        parameters = tensor.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        size = size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None
        if tensor.get("name") == "user":
            if size is not None:
                return _first_of_raw(raw[offset : offset + size], tensor.get("datatype"))
            return _first_of_data(tensor.get("data"))
        offset += size or 0
    return None


def _first_of_data(data: Any) -> str | None:
    while isinstance(data, list):
        if not data:
            return None
        data = data[0]
    return _text(data)


def _first_of_raw(raw: bytes, datatype: Any) -> str | None:
    try:
        if datatype in _INTEGERS:
            return str(struct.unpack_from(_INTEGERS[datatype], raw)[0])
        if datatype != "BYTES":
            return None
        (length,) = struct.unpack_from("<I", raw)
        return raw[4 : 4 + length].decode() or None if length <= len(raw) - 4 else None
    except (struct.error, UnicodeDecodeError):
        return None


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
