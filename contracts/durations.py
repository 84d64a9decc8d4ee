"""Durations as people write them: `90s`, `1h30m`, `7d`; kept as a timedelta, or as seconds where sums are made."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_PATTERN = r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"


def parse_duration(value: Any) -> timedelta:
    """Returns the duration that a text such as `90s`, `1h30m` or `7d` names; plain numbers are seconds.

    Raises:
        ValueError: The text is not a duration, or it is negative or not finite.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        duration = timedelta(seconds=value)
    elif isinstance(value, str) and re.fullmatch(_PATTERN, value.strip().replace(" ", "")):
        parts = _PART.findall(value.strip().replace(" ", ""))
        duration = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    else:
        raise ValueError(f"{value!r} is not a duration; write a number and a unit: 500ms, 30s, 10m, 1h30m, 7d or 2w")
    if duration < timedelta(0):
        raise ValueError(f"{value!r} is negative; a duration must not be")
    return duration


def format_duration(duration: timedelta) -> str:
    """Returns the shortest text of one unit that `parse_duration` reads back as the same duration."""
    milliseconds = round(duration.total_seconds() * 1000)
    for unit in ("w", "d", "h", "m", "s"):
        size = round(_UNITS[unit] * 1000)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def describe_seconds(seconds: float) -> str:
    """Returns seconds as people say them, two units at most: 45s, 5m, 1h30m, 2d4h."""
    if seconds < 60:
        return f"{seconds:.3g}s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.3g}ms"
    whole = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "string", "pattern": _PATTERN}, {"type": "number", "minimum": 0}],
        "examples": ["30s", "10m", "1h30m", "7d"],
    }
)

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str), _SCHEMA
]
"""A timedelta, written as `30s`, `10m`, `1h30m`, `7d`, or a number of seconds."""

Seconds = Annotated[float, BeforeValidator(lambda value: parse_duration(value).total_seconds()), _SCHEMA]
"""Seconds as a float, written like `Duration`."""
