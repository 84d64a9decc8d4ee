"""Latest feature values from a `features` artifact: what the online store holds, when there is no online store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slipway.contracts.errors import ArtifactError
from slipway.contracts.features import ViewSchema
from slipway.models.ids import IdIndex


class LatestFeatures:
    """Values by user, float32, NaN where null or missing; the model itself puts the defaults in.

    Args:
        features: The `features` artifact.
        views: The views that a model reads.
        lenient: Take a view that is absent, or lacks a column, as missing: an older model may read what is gone.

    Raises:
        ArtifactError: A view or one of its columns is not in the artifact.
    """

    def __init__(self, features: Path, views: Sequence[ViewSchema], *, lenient: bool = False) -> None:
        self.missing: list[str] = []
        self._views: dict[str, tuple[IdIndex, NDArray[np.float32]]] = {}
        for view in views:
            try:
                self._views[view.name] = _read(features / f"latest_{view.name}.parquet", view)
            except ArtifactError:
                if not lenient:
                    raise
                self.missing.append(view.name)
                empty = np.full((1, len(view.numeric)), np.nan, dtype=np.float32)
                self._views[view.name] = (IdIndex.from_strings([]), empty)

    def of(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Returns view -> float32 [len(ids), numeric features]."""
        # The last row of each table is the one of all unknown ids.
        return {name: values[index.rows(ids)] for name, (index, values) in self._views.items()}


def _read(file: Path, view: ViewSchema) -> tuple[IdIndex, NDArray[np.float32]]:
    names = [feature.name for feature in view.numeric]
    try:
        table = pq.read_table(file, columns=[view.entity, *names])
    except FileNotFoundError:
        raise ArtifactError(
            f"the features of view {view.name!r} are missing", where=str(file), remedy="Run featurize again."
        ) from None
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ArtifactError(
            f"the features of view {view.name!r} cannot be read ({error})",
            where=str(file),
            remedy="Run featurize again.",
        ) from error
    absent = {view.entity, *names} - set(table.column_names)
    if absent:
        raise ArtifactError(
            f"view {view.name!r} has no column {', '.join(sorted(absent))}",
            where=str(file),
            remedy="The model was trained on other features: run featurize and train again.",
        )
    ids = table.column(view.entity).to_pylist()
    index = IdIndex.from_strings(ids)
    values = np.full((len(index) + 1, len(names)), np.nan, dtype=np.float32)
    rows = index.rows(ids)
    for position, name in enumerate(names):
        column = table.column(name).cast(pa.float64(), safe=False)
        values[rows, position] = column.to_numpy(zero_copy_only=False)
    return index, values
