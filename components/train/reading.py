"""From a `features` artifact to what a family trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from slipway.components.latest_features import LatestFeatures
from slipway.contracts.errors import ArtifactError, DataError, UsageError
from slipway.contracts.features import ViewSchema
from slipway.models.ids import IdIndex
from slipway.models.interface import TrainingData

_REMEDY = "Run featurize again."


def read_training_data(features: Path, views: Sequence[str], *, device: str = "auto") -> TrainingData:
    """Reads the training interactions, and the features of the views that the model shall read.

    Args:
        features: The artifact.
        views: Names of views; each must be among the latest values of the artifact.
        device: Passed on to the family.

    Raises:
        ArtifactError: A file is missing or unreadable.
        DataError: There are no interactions.
        UsageError: A view is not in the artifact.
    """
    schemas = select_views(features, views)
    train = _read(features / "train.parquet", ("user", "item", "timestamp", "weight"))
    if not train.num_rows:
        raise DataError(
            "there are no interactions to train on", where=str(features), remedy="Check the split and minimum_rating."
        )
    users, user_rows = _index(train.column("user"))
    items, item_rows = _index(train.column("item"))
    names = users.ids(np.arange(len(users)))
    of_users = tuple(view for view in schemas if view.entity == "user")
    return TrainingData(
        users=users,
        items=items,
        user_rows=user_rows,
        item_rows=item_rows,
        weights=_weights(train),
        timestamps=train.column("timestamp").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(),
        user_features=LatestFeatures(features, of_users).of(names),
        label_features={view.name: _label_values(features, view, train.num_rows) for view in schemas},
        views=schemas,
        device=device,
    )


def select_views(features: Path, names: Sequence[str]) -> tuple[ViewSchema, ...]:
    """Returns the schemas of views by name, in the order asked for.

    Raises:
        ArtifactError: views.json is missing or unreadable.
        UsageError: There is no such view.
    """
    if not names:
        return ()
    file = features / "views.json"
    try:
        known = {view.name: view for view in TypeAdapter(list[ViewSchema]).validate_json(file.read_bytes())}
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"it cannot be read ({error})", where=str(file), remedy=_REMEDY) from error
    for name in names:
        # A view of the project's own is asked for by its module:function and named by the function.
        if name not in known and name.rpartition(":")[2] not in known:
            raise UsageError(
                f"the model reads the view {name!r}, which was not made",
                where="model.features",
                remedy=f"Add it to features.views. Made: {', '.join(known) or 'none'}.",
            )
    return tuple(known.get(name) or known[name.rpartition(":")[2]] for name in names)


def _read(file: Path, columns: Sequence[str]) -> pa.Table:
    try:
        names = pq.read_schema(file).names
        return pq.read_table(file, columns=[name for name in columns if name in names])
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"it cannot be read ({error})", where=str(file), remedy=_REMEDY) from error


def _index(column: pa.ChunkedArray) -> tuple[IdIndex, NDArray[np.int64]]:
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    distinct = encoded.dictionary.to_pylist()
    index = IdIndex.from_strings(distinct)
    return index, index.rows(distinct)[encoded.indices.to_numpy(zero_copy_only=False)]


def _weights(train: pa.Table) -> NDArray[np.float32]:
    if "weight" not in train.column_names:
        return np.ones(train.num_rows, dtype=np.float32)
    weights = pc.fill_null(train.column("weight").cast(pa.float64()), 1.0).to_numpy()
    return np.asarray(weights, dtype=np.float32)


def _label_values(features: Path, view: ViewSchema, rows: int) -> NDArray[np.float32]:
    file = features / f"train_{view.name}.parquet"
    names = [feature.name for feature in view.numeric]
    table = _read(file, names)
    if table.num_rows != rows or set(table.column_names) != set(names):
        raise ArtifactError("it does not fit train.parquet and views.json", where=str(file), remedy=_REMEDY)
    columns = [table.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for name in names]
    return np.stack(columns, axis=1).astype(np.float32)
