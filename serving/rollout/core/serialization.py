"""Dataclasses of the core to JSON and back, exactly: floats by their shortest repr, tuples as lists."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from slipway.contracts.errors import ArtifactError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Returns dataclasses, mappings and tuples as dictionaries and lists of plain values."""
    if isinstance(value, float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], float):
            return list(value)
        return [to_plain(item) for item in value]
    return value


def to_json(value: Any) -> str:
    """Returns a dataclass of the core as JSON text; equal values give equal text."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"))


def from_json(cls: type[T], text: str | bytes) -> T:
    """Returns the dataclass `cls` from what `to_json` wrote.

    Raises:
        ArtifactError: the text is cut off, or holds other fields than this version knows.
    """
    try:
        return cast(T, from_plain(cls, json.loads(text)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"the stored {cls.__name__.lower()} of a rollout cannot be read ({error})",
            remedy="It is from another version of Slipway or was altered; end that rollout and start it again",
        ) from error


def from_plain(cls: Any, value: Any) -> Any:
    """Returns `value`, as `to_plain` made it, in the type `cls`."""
    if cls is float:
        return float(value)
    origin, arguments = get_origin(cls), get_args(cls)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return from_plain(next(option for option in arguments if option is not types.NoneType), value)
    if origin is tuple:
        if arguments[0] is float:
            return tuple(map(float, value))
        return tuple(from_plain(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: from_plain(arguments[1], item) for key, item in value.items()}
    if origin is Literal:
        return value
    if isinstance(cls, type) and is_dataclass(cls):
        hints = _hints(cls)
        unknown = set(value) - set(hints)
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return cls(**{name: from_plain(hints[name], item) for name, item in value.items()})
    if isinstance(cls, type) and issubclass(cls, Enum):
        return cls(value)
    return value


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)
