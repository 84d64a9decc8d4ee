"""Values of feature views as of given moments, on DuckDB through Ibis.

One expression gives the values at label time and the latest values: they differ only in the moments asked for.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from slipway.contracts.errors import DataError, EnvironmentProblemError, UsageError
from slipway.feature_store.views.definition import FeatureView
from slipway.feature_store.views.timeline import Engine, Timeline

EVENT_COLUMNS = ("user", "item", "time", "weight", "rating")


def values_expression(
    view: FeatureView,
    events: Any,
    moments: Any | None,
    *,
    time_to_live: timedelta | None = None,
    engine: Engine = "duckdb",
) -> Any:
    """Returns an Ibis table of a view's values as of each moment, in order of `moment`.

    Where there is no earlier event, or the last one is older than `time_to_live`, the row is there and every feature is
    null: online, such a row is missing or expired.

    Args:
        view: The view.
        events: Ibis table of user, item, time (int64 microseconds), weight, rating, the view's attributes as
            `item_<name>`, and `moment` (int64): the number of the moment that the event itself is, or null.
        moments: Ibis table of the view's keys, time and moment, for moments that are no events; None for none.
        time_to_live: How long a row stays fresh after its last event.
        engine: The engine that will run it.

    Returns:
        Ibis table: moment, the view's keys, time, event_time (microseconds; null without a past), the features.
    """
    import ibis

    table = events.mutate(is_event=ibis.literal(1, "int64"))
    if moments is not None:
        missing = {name: ibis.null(kind) for name, kind in table.schema().items() if name not in moments.columns}
        table = table.union(moments.mutate(**missing).select(*table.columns))
    timeline = Timeline(table, view.keys, engine)
    try:
        features = {feature.name: feature.value(timeline).cast(feature.dtype) for feature in view.features}
    except Exception as error:
        raise UsageError(
            f"a feature of the view {view.name!r} cannot be built ({type(error).__name__}: {error})",
            where="features.views",
            remedy="Mend the expression.",
        ) from error
    result = table.select("moment", *view.keys, "time", event_time=timeline.last_time(), **features)
    result = result.filter(result.moment.notnull())
    known = result.event_time.notnull()
    if time_to_live is not None:
        known = known & (result.time - result.event_time <= time_to_live // timedelta(microseconds=1))
    return result.mutate(
        **{name: known.ifelse(result[name], ibis.null(result[name].type())) for name in features}
    ).order_by("moment")


class DuckDBEngine:
    """Runs views on a DuckDB of its own. One thread by default, so that sums come out the same to the last bit."""

    def __init__(self, *, threads: int = 1, memory_limit: str = "4GB", temporary: Path | None = None) -> None:
        import ibis

        settings: dict[str, Any] = {"threads": threads, "memory_limit": memory_limit}
        if temporary is not None:
            settings["temp_directory"] = str(temporary)
        self._connection = ibis.duckdb.connect(**settings)
        self._events: Any = None
        self._items: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.disconnect()

    def load(self, events: pa.Table, items: pa.Table | None = None) -> None:
        """Loads events.

        Args:
            events: `user`, `item`, `timestamp` (UTC), `weight`, and `rating` where there are ratings. Row i is the
                moment i.
            items: The items table, for views that read attributes.
        """
        time = events.column("timestamp").cast(pa.timestamp("us")).cast(pa.int64())
        rating = events.column("rating" if "rating" in events.column_names else "weight")
        table = pa.table(
            {
                "user": events.column("user"),
                "item": events.column("item"),
                "time": time,
                "weight": events.column("weight").cast(pa.float64()),
                "rating": rating.cast(pa.float64()),
                "moment": pa.array(range(len(events)), pa.int64()),
            }
        )
        self._events = self._table("events", table)
        self._items = None if items is None else self._table("items", items)

    def values(
        self, view: FeatureView, moments: pa.Table | None = None, *, time_to_live: timedelta | None = None
    ) -> pa.Table:
        """Returns the values as of each event and then as of each extra moment.

        Args:
            view: The view.
            moments: The view's key and `time` (int64 microseconds); they are numbered after the events.
            time_to_live: How long a row stays fresh after its last event.

        Returns:
            As `values_expression`, as an Arrow table.

        Raises:
            UsageError: The view does not fit the data.
            DataError: DuckDB cannot compute it.
        """
        import duckdb
        import ibis

        first = self._events.count().execute()
        extra = None
        if moments is not None:
            numbers = pa.array(range(first, first + len(moments)), pa.int64())
            extra = self._table("moments", moments.append_column("moment", numbers))
        expression = values_expression(view, self._with_attributes(view), extra, time_to_live=time_to_live)
        try:
            result = expression.to_pyarrow()
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            raise EnvironmentProblemError(
                f"the view {view.name!r} does not fit into memory ({error})", remedy="Raise memory_limit."
            ) from error
        except (duckdb.Error, ibis.common.exceptions.IbisError) as error:
            raise DataError(f"the view {view.name!r} cannot be computed ({error})", where="features.views") from error
        assert isinstance(result, pa.Table)
        return result

    def _table(self, name: str, content: pa.Table) -> Any:
        # Ibis's own create_table writes `DROP VIEW IF EXISTS` in a form that DuckDB 2 does not read.
        connection = self._connection.con
        connection.register("slipway_arrow", content)
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM slipway_arrow")  # noqa: S608
        connection.unregister("slipway_arrow")
        return self._connection.table(name)

    def _with_attributes(self, view: FeatureView) -> Any:
        if not view.attributes:
            return self._events
        columns = () if self._items is None else self._items.columns
        absent = [name for name in view.attributes if name not in columns]
        if absent or self._items is None:
            raise UsageError(
                f"the view {view.name!r} reads {', '.join(absent)}, which the items table does not have",
                where="features.views",
                remedy="Add data.items with these attributes.",
            )
        chosen = {f"item_{name}": self._items[name] for name in view.attributes}
        return self._events.left_join(self._items.select("item", **chosen), "item").drop("item_right")
