"""From request bodies to checked queries: whatever is not exactly right is refused with its reason.

V1 (JSON): {"instances": [{"user": "42", "k": 10, "exclude_seen": true, "exclude": ["7"]}, ...]}
V2 (tensors): input `user`, BYTES or integers, shape [n] or [n, 1]; request parameters `k`, `exclude_seen`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slipway.serving.predictor.kserve_sdk import InferInput, InferRequest, InvalidInput, to_http_parameters
from slipway.serving.predictor.settings import Limits

_INTEGER_BYTES = {"INT32": ("<i", 4), "INT64": ("<q", 8), "UINT32": ("<I", 4), "UINT64": ("<Q", 8)}
_INSTANCE_FIELDS = frozenset({"user", "k", "exclude_seen", "exclude"})
OUTPUTS = ("item", "score", "count", "fallback", "features")


@dataclass(frozen=True, slots=True)
class Query:
    """One user's question: at most `k` items, none of `exclude`, and none seen before unless told otherwise."""

    user: str
    k: int
    exclude_seen: bool = True
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """A checked request. `source` is the V2 request that it came from; `caller_id` the caller's own id."""

    protocol: Literal["v1", "v2"]
    queries: tuple[Query, ...]
    source: Any = None
    caller_id: str | None = None


def parse_v1(body: Any, limits: Limits) -> tuple[Query, ...]:
    """Returns the queries of a decoded V1 body.

    Raises:
        InvalidInput: With the first thing that is wrong, and where.
    """
    if not isinstance(body, dict):
        raise InvalidInput(f"the body must be a JSON object with 'instances', not {_kind(body)}")
    if "instances" not in body:
        raise InvalidInput('\'instances\' is missing: send {"instances": [{"user": "42"}]}')
    if len(body) > 1:
        raise InvalidInput(f"unknown field {_name(next(key for key in body if key != 'instances'))} beside 'instances'")
    instances = body["instances"]
    if not isinstance(instances, list):
        raise InvalidInput(f"'instances' must be a list, not {_kind(instances)}")
    _check_count(len(instances), limits)
    return tuple(_parse_instance(instance, index, limits) for index, instance in enumerate(instances))


def _parse_instance(instance: Any, index: int, limits: Limits) -> Query:
    where = f"instances[{index}]"
    if not isinstance(instance, dict):
        raise InvalidInput(f'{where} must be an object like {{"user": "42"}}, not {_kind(instance)}')
    if not instance.keys() <= _INSTANCE_FIELDS:
        unknown = next(key for key in instance if key not in _INSTANCE_FIELDS)
        raise InvalidInput(
            f"{where} has the unknown field {_name(unknown)}; known are {', '.join(sorted(_INSTANCE_FIELDS))}"
        )
    if "user" not in instance:
        raise InvalidInput(f"{where}.user is missing")
    user = _identifier(instance["user"], f"{where}.user", limits)
    k = _check_k(instance["k"], f"{where}.k", limits) if "k" in instance else limits.default_k
    exclude_seen = _check_flag(instance.get("exclude_seen", True), f"{where}.exclude_seen")
    exclude = instance.get("exclude")
    if exclude is None:
        return Query(user, k, exclude_seen)
    if not isinstance(exclude, list):
        raise InvalidInput(f"{where}.exclude must be a list of item ids, not {_kind(exclude)}")
    if len(exclude) > limits.excluded:
        raise InvalidInput(f"{where}.exclude names {len(exclude)} items, at most {limits.excluded} are allowed")
    return Query(user, k, exclude_seen, tuple(_identifier(item, f"{where}.exclude", limits) for item in exclude))


def parse_v2(request: InferRequest, limits: Limits) -> tuple[Query, ...]:
    """Returns the queries of a V2 request, REST or gRPC.

    Raises:
        InvalidInput: With the first thing that is wrong, and where.
    """
    parameters = dict(to_http_parameters(request.parameters)) if request.parameters else {}
    if request.parameters and len(parameters) < len(request.parameters):
        raise InvalidInput("a parameter has a name and no value")
    parameters.pop("binary_data_output", None)
    unknown = parameters.keys() - {"k", "exclude_seen"}
    if unknown:
        raise InvalidInput(f"unknown parameter {_name(min(unknown))}; known are k, exclude_seen")
    k = _check_k(parameters["k"], "parameter k", limits) if "k" in parameters else limits.default_k
    exclude_seen = _check_flag(parameters.get("exclude_seen", True), "parameter exclude_seen")
    for output in request.request_outputs or ():
        if output.name not in OUTPUTS:
            raise InvalidInput(f"unknown output {_name(output.name)}; known are {', '.join(OUTPUTS)}")
    if len(request.inputs) != 1 or request.inputs[0].name != "user":
        names = ", ".join(_name(tensor.name) for tensor in request.inputs[:5]) or "none"
        raise InvalidInput(f"exactly one input named 'user' is expected, got {names}")
    values = _tensor_values(request.inputs[0], limits)
    return tuple(Query(_identifier(value, f"user[{row}]", limits), k, exclude_seen) for row, value in enumerate(values))


def _tensor_values(tensor: InferInput, limits: Limits) -> Sequence[Any]:
    """Returns the flat values of the input, having checked its shape, type and length against each other."""
    shape = tensor.shape
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or not all(_is_integer(size) for size in shape):
        raise InvalidInput("input 'user' must have the shape [n] or [n, 1]")
    if min(shape) < 1 or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInput(f"input 'user' must have the shape [n] or [n, 1] with n of at least 1, not {shape}")
    count = shape[0]
    _check_count(count, limits)
    datatype = tensor.datatype
    if datatype != "BYTES" and datatype not in _INTEGER_BYTES:
        raise InvalidInput(f"input 'user' must be of type BYTES or an integer type, not {_name(datatype)}")
    if tensor._raw_data is not None:
        values = _raw_values(bytes(tensor._raw_data), datatype, count)
    else:
        values = _flat(tensor.data)
    if len(values) != count:
        raise InvalidInput(f"input 'user' has {len(values)} values, its shape {shape} says {count}")
    expected: tuple[type, ...] = (str, bytes) if datatype == "BYTES" else (int,)
    for row, value in enumerate(values):
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InvalidInput(f"input 'user' is of type {datatype}, but value {row} is {_kind(value)}")
    return values


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidInput(f"the data of input 'user' must be a list, not {_kind(data)}")
    flat: list[Any] = []
    for value in data:
        if isinstance(value, list):
            if len(value) != 1:
                raise InvalidInput("the data of input 'user' must be flat, or hold one value a row")
            flat.append(value[0])
        else:
            flat.append(value)
    return flat


def _raw_values(raw: bytes, datatype: str, count: int) -> list[Any]:
    if datatype in _INTEGER_BYTES:
        form, size = _INTEGER_BYTES[datatype]
        if len(raw) != size * count:
            raise InvalidInput(
                f"input 'user' has {len(raw)} raw bytes, {count} values of {datatype} have {size * count}"
            )
        return [value for (value,) in struct.iter_unpack(form, raw)]
    values: list[bytes] = []
    offset = 0
    while offset < len(raw):
        if offset + 4 > len(raw) or len(values) >= count:
            raise InvalidInput("the raw bytes of input 'user' do not fit its shape")
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if length > len(raw) - offset:
            raise InvalidInput("the raw bytes of input 'user' end within a value")
        values.append(raw[offset : offset + length])
        offset += length
    return values


def _identifier(value: Any, where: str, limits: Limits) -> str:
    """Returns a user or item id as text. Integers are accepted as their decimal text, nothing else is."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"{where} is not UTF-8") from None
    if _is_integer(value):
        if not -(1 << 63) <= value < 1 << 64:
            raise InvalidInput(f"{where} is an integer of more than 64 bits; send it as a string")
        return str(value)
    if not isinstance(value, str):
        raise InvalidInput(f"{where} must be a string or an integer, not {_kind(value)}")
    if not value:
        raise InvalidInput(f"{where} is empty")
    if len(value) > limits.identifier_characters:
        raise InvalidInput(f"{where} has {len(value)} characters, at most {limits.identifier_characters} are allowed")
    if "\x00" in value or not _is_unicode(value):
        raise InvalidInput(f"{where} holds a zero character or half a surrogate pair")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_count(count: int, limits: Limits) -> None:
    if count == 0:
        raise InvalidInput("no instance to answer: send at least one")
    if count > limits.instances:
        raise InvalidInput(f"{count} instances in one request, at most {limits.instances} are allowed")


def _check_k(value: Any, where: str, limits: Limits) -> int:
    if not _is_integer(value):
        raise InvalidInput(f"{where} must be an integer, not {_kind(value)}")
    if not 1 <= value <= limits.k:
        raise InvalidInput(f"{where} must be between 1 and {limits.k}")
    return int(value)


def _check_flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{where} must be true or false, not {_kind(value)}")
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number" if math.isfinite(value) else "a number that is not finite"
    if isinstance(value, str | bytes):
        return "a string"
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else "something else"


def _name(value: Any) -> str:
    return repr(str(value)[:64])
