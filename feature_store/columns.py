"""Arrow columns as the online store packs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slipway.contracts.errors import DataError
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.feature_store.blobs import Column

ARROW_TYPES = {
    "float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string(),
}  # fmt: skip


def columns_of(view: ViewSchema, table: Any) -> dict[str, Column]:
    """Returns the features of a view from an Arrow table, with values of the view's types.

    Raises:
        DataError: A feature has no column, or its column cannot be of the feature's type.
    """
    return {feature.name: _column(view, feature, table) for feature in view.features}


def _column(view: ViewSchema, feature: FeatureSchema, table: Any) -> Column:
    where = f"feature view {view.name}"
    if feature.name not in table.column_names:
        raise DataError(f"there is no column {feature.name!r}", where=where, remedy="Run featurize again.")
    array = table.column(feature.name)
    try:
        # NaN stays a value of its own; only Arrow's nulls are nulls.
        array = array.cast(ARROW_TYPES[feature.dtype], safe=feature.dtype not in ("float32", "float64"))
    except pa.ArrowInvalid as error:
        raise DataError(f"{feature.name!r} cannot be {feature.dtype}: {error}", where=where) from error
    null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else np.zeros(len(array), dtype=np.bool_)
    if feature.dtype == "string":
        return Column(np.array(array.to_pylist(), dtype=object), null)
    if array.null_count:
        array = array.fill_null(False if feature.dtype == "bool" else 0)
    return Column(array.to_numpy(), null)


def microseconds(table: Any, name: str) -> NDArray[np.int64]:
    """Returns a timestamp column as int64 [n] microseconds since 1970 UTC.

    Raises:
        DataError: The column is absent, has nulls or is not of timestamps.
    """
    if name not in table.column_names:
        raise DataError(f"there is no column {name!r}", remedy="Run featurize again.")
    array = table.column(name)
    if array.null_count or not (pa.types.is_timestamp(array.type) or pa.types.is_int64(array.type)):
        raise DataError(f"column {name!r} must hold timestamps without nulls")
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", tz=array.type.tz), safe=False)
    result: NDArray[np.int64] = pc.cast(array, pa.int64()).to_numpy()
    return result
