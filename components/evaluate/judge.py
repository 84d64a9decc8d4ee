"""Ranks for every evaluable user by the code that serves, and measures the lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipway.components.evaluate.task import Task
from slipway.models import metrics
from slipway.models.interface import Features, Recommender
from slipway.models.metrics import WholeRanking
from slipway.models.ranking import recommend, score_pairs
from slipway.models.seen import SeenItems

_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class Judged:
    """Lists and metrics of one model over all users of a task.

    `lists`: int64 [n, K] rows of the task's items, -1 where a list has ended. `scores`: float64 [n, K]. `table`:
    float64 [n, columns], NaN where a user has no value. `by_items`: the same where only some items count as relevant.
    `fallbacks`: users whom the model could not answer itself.
    """

    lists: NDArray[np.int64]
    scores: NDArray[np.float64]
    table: NDArray[np.float64]
    by_items: Mapping[str, NDArray[np.float64]]
    fallbacks: int


def columns_for(ks: Sequence[int]) -> list[str]:
    """Returns the names of the per-user metrics, in the order of `Judged.table`."""
    return [f"{name}@{k}" for k in ks for name in ("hr", "ndcg", "recall", "mrr")] + ["auc", "mrr"]


def judge(
    model: Recommender,
    task: Task,
    *,
    ks: Sequence[int],
    features: Callable[[Sequence[str]], Features],
    exclude_seen: bool,
    item_slices: Mapping[str, NDArray[np.bool_]],
    own_history: bool = True,
    on_users: Callable[[int], None] = lambda _number: None,
) -> Judged:
    """Measures a model.

    Args:
        model: Any family; its catalogue may differ from the task's.
        task: What there is to be predicted.
        ks: Lengths at which lists are cut.
        features: Gives the model's features of some users.
        exclude_seen: Leave out what users have seen in training.
        item_slices: Name -> bool [n_items]: which items count as relevant.
        own_history: The model was trained on the task's training data, so that what it has seen is what the task says.
        on_users: Told the number of users done.
    """
    n, width = len(task.users), max(ks)
    lists, scores = np.full((n, width), -1, dtype=np.int64), np.full((n, width), np.nan)
    relevant = {"": task.relevant} | {name: restricted(task.relevant, mask) for name, mask in item_slices.items()}
    wholes: dict[str, list[WholeRanking]] = {name: [] for name in relevant}
    rank = _rank_candidates if task.candidates is not None else _rank_catalogue
    history = "own" if exclude_seen and own_history else "given" if exclude_seen else "none"
    fallbacks = 0
    translate = _translation(model, task)
    size = max(1, min(2048, _BATCH_BYTES // (4 * max(len(model.items), 1))))
    for start in range(0, n, size):
        positions = np.arange(start, min(start + size, n))
        users = task.users[start : start + size]
        values = features(users)
        fallbacks += int((~model.answers(model.users.rows(users), values)).sum())
        part = rank(model, task, users, positions, values, width, history, relevant, translate)
        lists[positions], scores[positions] = part.lists, part.scores
        for name, whole in part.wholes.items():
            wholes[name].append(whole)
        on_users(len(users))
    tables = {
        name: _table(metrics.hits(lists, sets), np.diff(sets.offsets), ks, wholes[name])
        for name, sets in relevant.items()
    }
    overall = tables.pop("")
    return Judged(lists, scores, overall, tables, fallbacks)


def restricted(sets: SeenItems, mask: NDArray[np.bool_]) -> SeenItems:
    """Returns the sets without the items that `mask` [n_items] leaves out."""
    owners, rows = sets.pairs(np.arange(len(sets.offsets) - 1))
    kept = mask[rows]
    return SeenItems.from_pairs(owners[kept], rows[kept], n_users=len(sets.offsets) - 1)


@dataclass(frozen=True)
class _Ranked:
    lists: NDArray[np.int64]
    scores: NDArray[np.float64]
    wholes: dict[str, WholeRanking]


Translation = Callable[[SeenItems, NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]


def _translation(model: Recommender, task: Task) -> Translation:
    """Returns a function that gives (position, model's item row) pairs of sets of the task's items."""
    rows = model.items.rows(task.items.ids(np.arange(len(task.items))))

    def translate(sets: SeenItems, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        owners, items = sets.pairs(positions)
        items = rows[items]
        return owners[items >= 0], items[items >= 0]

    return translate


def _rank_catalogue(
    model: Recommender,
    task: Task,
    users: list[str],
    positions: NDArray[np.int64],
    features: Features,
    width: int,
    history: str,
    relevant: Mapping[str, SeenItems],
    translate: Translation,
) -> _Ranked:
    exclude = [task.items.ids(task.seen.of(position)) for position in positions] if history == "given" else None
    answer = recommend(model, users, k=width, features=features, exclude_seen=history == "own", exclude=exclude)
    lists, scores = np.full((len(users), width), -1, dtype=np.int64), np.full((len(users), width), np.nan)
    lengths = np.array([len(ids) for ids in answer.items])
    filled = np.arange(width) < lengths[:, None]
    lists[filled] = task.items.rows([identifier for ids in answer.items for identifier in ids])
    scores[filled] = [score for row in answer.scores for score in row]

    matrix = _all_scores(model, users, features)
    if history != "none":
        matrix[translate(task.seen, positions)] = -np.inf
    everything = translate(relevant[""], positions)
    wholes = {}
    for name, sets in relevant.items():
        owners, rows = translate(sets, positions)
        # Relevant items outside the slice are neither right nor wrong answers within it.
        kept = matrix[owners, rows].copy()
        full = matrix[everything].copy()
        matrix[everything] = -np.inf
        matrix[owners, rows] = kept
        wholes[name] = metrics.whole_ranking(matrix, SeenItems.from_pairs(owners, rows, n_users=len(users)))
        matrix[everything] = full
    return _Ranked(lists, scores, wholes)


def _rank_candidates(
    model: Recommender,
    task: Task,
    users: list[str],
    positions: NDArray[np.int64],
    features: Features,
    width: int,
    history: str,
    relevant: Mapping[str, SeenItems],
    translate: Translation,
) -> _Ranked:
    del history, translate  # candidates hold no seen items where these are excluded; pairs are named by ids
    assert task.candidates is not None
    owners, rows = task.candidates.pairs(positions)
    values = {name: array[owners] for name, array in features.items()}
    exact = score_pairs(model, [users[owner] for owner in owners], task.items.ids(rows), values)
    exact = np.where(np.isnan(exact), -np.inf, exact)

    order = np.lexsort((rows, -exact, owners))
    counts = np.bincount(owners, minlength=len(users))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = (rank < width) & np.isfinite(exact[order])
    lists, scores = np.full((len(users), width), -1, dtype=np.int64), np.full((len(users), width), np.nan)
    lists[owners[order][first], rank[first]] = rows[order][first]
    scores[owners[order][first], rank[first]] = exact[order][first]

    keys, n_items = owners * len(task.items) + rows, len(task.items)
    good = {
        name: np.isin(keys, own * n_items + items)
        for name, sets in relevant.items()
        for own, items in [sets.pairs(positions)]
    }
    wholes = {}
    for name, mask in good.items():
        kept = mask | ~good[""]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners[kept], minlength=len(users)))])
        wholes[name] = metrics.listed_ranking(exact[kept], mask[kept], offsets)
    return _Ranked(lists, scores, wholes)


def _all_scores(model: Recommender, users: Sequence[str], features: Features) -> NDArray[np.float32]:
    rows = model.users.rows(users)
    own = model.answers(rows, features)
    if own.all():
        return model.score(rows, features)
    scores = np.empty((len(rows), len(model.items)), dtype=np.float32)
    scores[:] = model.popularity
    if own.any():
        scores[own] = model.score(rows[own], {name: array[own] for name, array in features.items()})
    return scores


def _table(
    hit: NDArray[np.bool_], n_relevant: NDArray[np.int64], ks: Sequence[int], wholes: Sequence[WholeRanking]
) -> NDArray[np.float64]:
    columns = []
    for k in ks:
        columns += [
            metrics.hit_rate(hit, k),
            metrics.ndcg(hit, n_relevant, k),
            metrics.recall(hit, n_relevant, k),
            metrics.reciprocal_rank(hit, k),
        ]
    columns.append(np.concatenate([whole.auc for whole in wholes]))
    columns.append(np.concatenate([whole.reciprocal_rank for whole in wholes]))
    table = np.stack(columns, axis=1)
    table[n_relevant == 0] = np.nan
    return table
