"""Answers of a model as tables: top-k lists, and scores of given pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slipway.components.id_tables import IdTable
from slipway.models.ids import IdIndex
from slipway.models.interface import Features, Recommender
from slipway.models.ranking import UNKNOWN_USER, recommend, score_pairs
from slipway.models.seen import SeenItems

UNKNOWN_ITEM = "unknown_item"

LISTS = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("score", pa.float64()),
        ("fallback", pa.string()),
    ]
)
PAIRS = pa.schema([("user", pa.string()), ("item", pa.string()), ("score", pa.float64()), ("fallback", pa.string())])


class Candidates:
    """What may be recommended: the same items for all users, or each user's own.

    Own candidates are kept in memory, 4 bytes each.

    Args:
        table: `item`, or `user` and `item`.
        items: The model's items; candidates that it does not know are counted in `unknown`.
    """

    def __init__(self, table: IdTable, items: IdIndex) -> None:
        self.common: list[str] | None = None
        self.unknown = 0
        self._users = IdIndex.from_strings([])
        self._own = SeenItems(np.zeros(1, np.int64), np.zeros(0, np.int32))
        if "user" not in table.columns:
            names = {name for batch in table.batches(100_000) for name in batch.column("item").to_pylist()}
            self.common = sorted(names)
            self.unknown = int((items.rows(self.common) < 0).sum())
            return
        numbers: dict[str, int] = {}
        owners, rows = [], []
        for batch in table.batches(100_000):
            users = batch.column("user").to_pylist()
            owners.append(np.array([numbers.setdefault(user, len(numbers)) for user in users], dtype=np.int32))
            rows.append(items.rows(batch.column("item").to_pylist()).astype(np.int32))
        self._users = IdIndex.from_strings(numbers)
        order = self._users.rows(list(numbers))
        owner, row = (np.concatenate(parts) if parts else np.zeros(0, np.int32) for parts in (owners, rows))
        self.unknown = int((row < 0).sum())
        known = row >= 0
        self._own = SeenItems.from_pairs(
            order[owner[known]], row[known].astype(np.int64), n_users=max(len(self._users), 1)
        )

    def of(self, users: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (positions into `users`, item rows) of these users' own candidates."""
        return self._own.pairs(self._users.rows(users))


def rank(
    model: Recommender,
    users: Sequence[str],
    features: Features,
    *,
    k: int,
    exclude_seen: bool,
    candidates: Candidates | None,
) -> pa.Table:
    """Returns the k best items for each user, as `LISTS`."""
    if candidates is not None and candidates.common is None:
        return _rank_own(model, users, features, k, exclude_seen, candidates)
    common = None if candidates is None else candidates.common
    answer = recommend(model, users, k=k, features=features, exclude_seen=exclude_seen, candidates=common)
    lengths = np.array([len(items) for items in answer.items])
    return _lists(
        users,
        np.repeat(np.arange(len(users)), lengths),
        pa.array([item for items in answer.items for item in items], pa.string()),
        np.array([score for scores in answer.scores for score in scores], dtype=np.float64),
        answer.fallback,
    )


def score(model: Recommender, users: list[str], items: list[str], features: Features) -> pa.Table:
    """Returns the score of each pair, as `PAIRS`; null where the item is unknown."""
    scores = score_pairs(model, users, items, features)
    answered = model.answers(model.users.rows(users), features)
    fallback = np.where(answered, None, UNKNOWN_USER)  # type: ignore[call-overload]
    fallback[np.isnan(scores)] = UNKNOWN_ITEM
    columns = [
        pa.array(users, pa.string()),
        pa.array(items, pa.string()),
        pa.array(scores, pa.float64(), from_pandas=True),
        pa.array(fallback.tolist(), pa.string()),
    ]
    return pa.table(columns, schema=PAIRS)


def _rank_own(
    model: Recommender,
    users: Sequence[str],
    features: Features,
    k: int,
    exclude_seen: bool,
    candidates: Candidates,
) -> pa.Table:
    owners, rows = candidates.of(users)
    user_rows = model.users.rows(users)
    if exclude_seen:
        seen_owners, seen_rows = model.seen.pairs(user_rows)
        n_items = len(model.items)
        fresh = ~np.isin(owners * n_items + rows, seen_owners * n_items + seen_rows)
        owners, rows = owners[fresh], rows[fresh]
    values = {name: array[owners] for name, array in features.items()}
    scores = score_pairs(model, [users[owner] for owner in owners], model.items.ids(rows), values)
    order = np.lexsort((rows, -scores, owners))
    owners, rows, scores = owners[order], rows[order], scores[order]
    counts = np.bincount(owners, minlength=len(users))
    first = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts) < k
    answered = model.answers(user_rows, features)
    fallback = [None if own else UNKNOWN_USER for own in answered.tolist()]
    items = pa.array(model.items.ids(rows[first]), pa.string())
    return _lists(users, owners[first], items, scores[first], fallback)


def _lists(
    users: Sequence[str],
    owners: NDArray[np.int64],
    items: pa.Array,
    scores: NDArray[np.float64],
    fallback: Sequence[str | None],
) -> pa.Table:
    counts = np.bincount(owners, minlength=len(users))
    ranks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    take = pa.array(owners)
    columns = [
        pa.array(users, pa.string()).take(take),
        pa.array(ranks, pa.int32()),
        items,
        pa.array(scores, pa.float64()),
        pa.array(fallback, pa.string()).take(take),
    ]
    return pa.table(columns, schema=LISTS)
