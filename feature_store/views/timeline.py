"""The past of each entity, as windows that end just before each row.

A timeline has one row per event and one per moment that values are wanted for. Windows are ranges over integer
microseconds that end at 1 PRECEDING: an event of the same microsecond as a row is not in its past, so neither a label
nor anything tied with it leaks into the label's features, and ties need no order. Both engines take this form
(intervals, `asof_join` and `last().over()` are refused by Spark, or silently differ).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

MICROSECONDS_PER_DAY = 86_400_000_000

Engine = Literal["duckdb", "pyspark"]


@dataclass(frozen=True)
class Timeline:
    """Events and wanted moments of entities, as one Ibis table.

    Columns: `user`, `item` (text), `time` (int64 microseconds), `weight`, `rating` (float64; the weight where the data
    has no rating), `is_event` (1 or null), and the attributes that the view asked for. Where `is_event` is null, the
    columns of an event are null. `keys` divide the table. `engine` matters where engines have no form in common.
    """

    table: Any
    keys: tuple[str, ...]
    engine: Engine = "duckdb"

    def __getitem__(self, column: str) -> Any:
        """Returns a column."""
        return self.table[column]

    def past(self, window: timedelta | None = None) -> Any:
        """Returns the Ibis window from `window` before a row (all time if None) to just before it."""
        import ibis

        start = None if window is None else window // timedelta(microseconds=1)
        return ibis.range_window(group_by=list(self.keys), order_by="time", preceding=(start, 1))

    def count(self, window: timedelta | None = None) -> Any:
        """Returns the number of events."""
        return self.table.is_event.sum().over(self.past(window)).fill_null(0)

    def sum(self, column: str, window: timedelta | None = None) -> Any:
        """Returns the sum of a column; 0 without events."""
        return self.table[column].sum().over(self.past(window)).fill_null(0)

    def mean(self, column: str, window: timedelta | None = None) -> Any:
        """Returns the mean of a column; null without events."""
        return self.table[column].mean().over(self.past(window))

    def distinct(self, column: str, window: timedelta | None = None) -> Any:
        """Returns the number of different values of a column."""
        if self.engine == "pyspark":  # Spark has no distinct count over a window
            return self.table[column].collect().over(self.past(window)).unique().length().fill_null(0)
        return self.table[column].nunique().over(self.past(window)).fill_null(0)

    def first_time(self, window: timedelta | None = None) -> Any:
        """Returns the time of the first event in microseconds; null without events."""
        return self._event_time().min().over(self.past(window))

    def last_time(self, window: timedelta | None = None) -> Any:
        """Returns the time of the last event in microseconds; null without events."""
        return self._event_time().max().over(self.past(window))

    def days_since(self, time: Any) -> Any:
        """Returns the days from a time in microseconds to each row's own."""
        return (self.table.time - time) / MICROSECONDS_PER_DAY

    def _event_time(self) -> Any:
        return self.table.time * self.table.is_event
