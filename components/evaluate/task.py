"""What there is to be predicted: users, their held-out items, what they have seen, and the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slipway.components.id_tables import IdTable
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import ArtifactError, DataError, UsageError
from slipway.contracts.evaluation import EvaluationSpec
from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue
from slipway.models.popularity import Popularity
from slipway.models.seen import SeenItems


@dataclass(frozen=True)
class Task:
    """The evaluable users in the order of their ids, and everything about them by position.

    `relevant`, `seen`: item rows in `items`. `popularity`: float64 [n_items], training events. `activity`: int64
    [n_users], training events. `candidates`: item rows to rank for each user, relevant ones included; None for all.
    `without_history`: users with held-out items and no training event. `repeated`: held-out items that their user had
    seen in training, which cannot be recommended when seen items are excluded and do not count as relevant then.
    """

    users: list[str]
    items: IdIndex
    relevant: SeenItems
    seen: SeenItems
    popularity: NDArray[np.float64]
    activity: NDArray[np.int64]
    baseline: Popularity
    candidates: SeenItems | None
    without_history: int
    repeated: int

    @property
    def n_relevant(self) -> NDArray[np.int64]:
        """Number of relevant items of each user."""
        return np.diff(self.relevant.offsets)


def read_task(features: Path, spec: EvaluationSpec, base: Path) -> Task:
    """Reads the task from a `features` artifact.

    Args:
        features: The artifact.
        spec: What counts as relevant, and which candidates are ranked.
        base: Folder that a candidates source is relative to.

    Raises:
        ArtifactError: The artifact is not whole.
        DataError: Nobody can be evaluated, or a column is missing.
    """
    read_manifest(features, kind="features")
    train, test = _pairs(features / "train.parquet"), _pairs(features / "test.parquet", spec.minimum_rating)
    catalogue = features / "items.parquet"
    listed = (
        pq.read_table(catalogue, columns=["item"]).column("item")
        if catalogue.is_file()
        else pa.chunked_array([], pa.string())
    )
    items = IdIndex.from_strings(
        identifier
        for table in (train.column("item"), test.column("item"), listed)
        for identifier in pc.unique(table).to_pylist()
    )
    trained = IdIndex.from_strings(pc.unique(train.column("user")).to_pylist())
    train_users, train_items = rows_of(trained, train.column("user")), rows_of(items, train.column("item"))
    all_seen = SeenItems.from_pairs(train_users, train_items, n_users=len(trained))
    test_users, test_items = rows_of(trained, test.column("user")), rows_of(items, test.column("item"))
    without_history = len(set(test.column("user").filter(pa.array(test_users < 0)).to_pylist()))

    known = test_users >= 0
    keys = np.unique(test_users[known] * len(items) + test_items[known])
    repeated = 0
    if spec.exclude_seen and len(keys):
        fresh = ~np.isin(keys, np.unique(train_users * len(items) + train_items))
        repeated, keys = int((~fresh).sum()), keys[fresh]
    evaluable, positions = np.unique(keys // max(len(items), 1), return_inverse=True)
    if not len(evaluable):
        raise DataError(
            "no user has both training events and relevant held-out items",
            where=str(features),
            remedy="Choose another split: with few events a user, last_share or leave_last_out.",
        )
    relevant = SeenItems.from_pairs(positions, keys % len(items), n_users=len(evaluable))
    seen_positions, seen_items = all_seen.pairs(evaluable)
    seen = SeenItems.from_pairs(seen_positions, seen_items, n_users=len(evaluable))
    users = trained.ids(evaluable)
    shares = np.bincount(all_seen.item_rows, minlength=len(items)) / len(trained)
    return Task(
        users=users,
        items=items,
        relevant=relevant,
        seen=seen,
        popularity=np.bincount(train_items, minlength=len(items)).astype(np.float64),
        activity=np.bincount(train_users, minlength=len(trained))[evaluable],
        baseline=Popularity(Catalogue(trained, items, all_seen, shares, train.num_rows)),
        candidates=_candidates(spec, base, users, items, relevant, seen),
        without_history=without_history,
        repeated=repeated,
    )


def rows_of(index: IdIndex, column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Returns the row of each id of a text column, -1 for unknown ones; each distinct id is looked up once."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    rows = index.rows(encoded.dictionary.to_pylist())
    return rows[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else np.zeros(0, dtype=np.int64)


def _pairs(file: Path, minimum_rating: float | None = None) -> pa.Table:
    try:
        names = pq.read_schema(file).names
        if minimum_rating is not None and "rating" not in names:
            raise UsageError(
                "evaluation.minimum_rating needs a rating, and the interactions have none",
                where=str(file),
                remedy="Name the rating in data.interactions.columns, or remove minimum_rating.",
            )
        if minimum_rating is None:
            return pq.read_table(file, columns=["user", "item"])
        return pq.read_table(file, columns=["user", "item", "rating"]).filter(pc.field("rating") >= minimum_rating)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{file.name} cannot be read ({error})", where=str(file.parent), remedy="Run featurize again."
        ) from error


def _candidates(
    spec: EvaluationSpec, base: Path, users: Sequence[str], items: IdIndex, relevant: SeenItems, seen: SeenItems
) -> SeenItems | None:
    if spec.candidates == "all":
        return None
    names = {"user": ("user",), "item": ("item",)}
    pairs = IdTable(spec.candidates, base, names).read()
    index = IdIndex.from_strings(users)
    user_rows, item_rows = rows_of(index, pairs.column("user")), rows_of(items, pairs.column("item"))
    mine = (user_rows >= 0) & (item_rows >= 0)
    positions, good = relevant.pairs(np.arange(len(users)))
    keys = np.unique(np.concatenate([user_rows[mine] * len(items) + item_rows[mine], positions * len(items) + good]))
    if spec.exclude_seen:
        seen_positions, seen_items = seen.pairs(np.arange(len(users)))
        keys = keys[~np.isin(keys, seen_positions * len(items) + seen_items)]
    if len(keys) == len(positions):
        raise DataError(
            "the candidates name no further item for any evaluable user",
            where=spec.candidates,
            remedy="Check that user and item ids are written as in the interactions.",
        )
    return SeenItems.from_pairs(keys // len(items), keys % len(items), n_users=len(users))
