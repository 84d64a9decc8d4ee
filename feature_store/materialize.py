"""From a features artifact to the online store."""

from __future__ import annotations

from pathlib import Path

from slipway.contracts.errors import ArtifactError
from slipway.feature_store.artifact import latest_file, read_views
from slipway.feature_store.online import OnlineStore

ROWS_AT_ONCE = 50_000


def materialize(features: Path, store: OnlineStore) -> dict[str, int]:
    """Writes the latest values of every view to the online store. May be repeated, and may run while others write.

    Args:
        features: A features artifact.
        store: Where to write.

    Returns:
        View -> number of its rows that the store now holds in this or a newer form.

    Raises:
        ArtifactError: The artifact is absent or cannot be read.
        ServiceError: Redis cannot be reached.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, int] = {}
    for view in read_views(features):
        file = latest_file(features, view)
        rows[view.name] = 0
        try:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(ROWS_AT_ONCE):
                    store.write(view, pa.Table.from_batches([batch]))
                    rows[view.name] += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"{file.name} cannot be read ({error})", where=str(features), remedy="Run featurize again."
            ) from error
    return rows
