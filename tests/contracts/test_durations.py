"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.contracts.durations import describe_seconds, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("250ms", 0.25), ("7d", 604800), ("2w", 1209600), (90, 90)]
)
def test_a_duration_is_read(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "5 parsecs", "-1s", "1h-2m", None, True, -3, float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration|negative"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_written_duration_reads_back_as_itself(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


def test_people_get_two_units_at_most() -> None:
    assert [describe_seconds(value) for value in (0, 0.25, 45, 300, 5400, 187200)] == [
        "0s", "250ms", "45s", "5m", "1h30m", "2d4h",
    ]  # fmt: skip
