"""The one top-k: evaluation, batch prediction and the predictor rank by this code and so agree item for item.

A float32 matrix product finds the few items that can be in the answer; these are scored again in float64 with a fixed
order of operations. The answer therefore does not depend on which other users share the batch, nor on the number of
threads. Order: score, descending; equal scores by item id, ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from slipway.models.ids import IdIndex
from slipway.models.interface import Features, Recommender

UNKNOWN_USER = "unknown_user"
"""Reason of a fallback: the model knows neither the user's history nor features to answer from."""


@dataclass(frozen=True)
class Recommendations:
    """Answers, one entry a user, best item first.

    `items`: ids. `scores`: float64 as Python floats. `fallback`: None where the model itself answered, otherwise why
    popularity did. Lists are shorter than k where fewer items are left to recommend.
    """

    items: list[list[str]]
    scores: list[list[float]]
    fallback: list[str | None]

    def __len__(self) -> int:
        return len(self.items)


def recommend(
    model: Recommender,
    user_ids: Sequence[str],
    *,
    k: int,
    features: Features | None = None,
    exclude_seen: bool = True,
    candidates: Sequence[str] | None = None,
    exclude: Sequence[Sequence[str]] | None = None,
) -> Recommendations:
    """Returns the k best items for each user.

    Needs about 10 bytes per user and item; for many users take `recommend_batches`.

    Args:
        model: Any family.
        user_ids: The users; unknown ones get the fallback unless the model can answer from features.
        k: Length of an answer, at least 1.
        features: The model's views, float32 [n, m] each, NaN where null or missing; None: all missing.
        exclude_seen: Leave out what the user interacted with in training.
        candidates: Rank only these items, for every user; unknown ids are ignored. None: all items.
        exclude: For each user, further items to leave out; unknown ids are ignored.

    Raises:
        ValueError: `k` is below 1, or `features` or `exclude` do not match `user_ids` in length.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    user_rows = model.users.rows(user_ids)
    values = _aligned(model, features, len(user_rows))
    if exclude is not None and len(exclude) != len(user_rows):
        raise ValueError(f"{len(exclude)} lists to exclude for {len(user_rows)} users")
    if not len(user_rows):
        return Recommendations([], [], [])

    own = model.answers(user_rows, values)
    scores, error = _float_scores(model, user_rows, values, own)
    if exclude_seen:
        scores[model.seen.pairs(user_rows)] = -np.inf
    if exclude is not None and any(exclude):
        scores[_excluded_pairs(model.items, exclude)] = -np.inf
    if candidates is not None:
        outside = np.ones(scores.shape[1], dtype=np.bool_)
        rows = model.items.rows(candidates)
        outside[rows[rows >= 0]] = False
        scores[:, outside] = -np.inf

    positions, item_rows = _contenders(scores, error, k)
    exact = _exact_scores(model, user_rows, values, own, positions, item_rows)
    order = np.lexsort((item_rows, -exact, positions))
    positions, item_rows, exact = positions[order], item_rows[order], exact[order]
    counts = np.bincount(positions, minlength=len(user_rows))
    rank = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = rank < k
    ids, values_kept = model.items.ids(item_rows[kept]), exact[kept].tolist()
    ends = np.cumsum(np.minimum(counts, k)).tolist()
    starts = [0, *ends[:-1]]
    return Recommendations(
        items=[ids[start:end] for start, end in zip(starts, ends, strict=True)],
        scores=[values_kept[start:end] for start, end in zip(starts, ends, strict=True)],
        fallback=[None if answered else UNKNOWN_USER for answered in own.tolist()],
    )


def recommend_batches(
    model: Recommender,
    user_ids: Iterable[str],
    *,
    k: int,
    features: Callable[[Sequence[str]], Features] | None = None,
    exclude_seen: bool = True,
    candidates: Sequence[str] | None = None,
    batch_bytes: int = 64 << 20,
) -> Iterator[tuple[list[str], Recommendations]]:
    """Recommends for any number of users in bounded memory.

    Args:
        features: Gives the features of a batch of users; None: all missing.
        batch_bytes: Rough bound on the working memory of a batch.

    Yields:
        The users of a batch and their answers, in the order of `user_ids`.
    """
    size = max(1, min(4096, batch_bytes // (10 * max(len(model.items), 1))))
    users = iter(user_ids)
    while batch := list(islice(users, size)):
        values = features(batch) if features is not None else None
        yield (
            batch,
            recommend(model, batch, k=k, features=values, exclude_seen=exclude_seen, candidates=candidates),
        )


def score_pairs(
    model: Recommender, user_ids: Sequence[str], item_ids: Sequence[str], features: Features | None = None
) -> NDArray[np.float64]:
    """Scores given (user, item) pairs, with the very numbers that `recommend` returns.

    Args:
        user_ids: [n]; users whom the model cannot answer get the popularity of the item.
        item_ids: [n], aligned.
        features: The model's views by pair, float32 [n, m] each.

    Returns:
        float64 [n]; NaN where the item is unknown.

    Raises:
        ValueError: The lengths differ.
    """
    if len(user_ids) != len(item_ids):
        raise ValueError(f"{len(user_ids)} users for {len(item_ids)} items")
    user_rows, item_rows = model.users.rows(user_ids), model.items.rows(item_ids)
    values = _aligned(model, features, len(user_rows))
    own = model.answers(user_rows, values)
    known = np.flatnonzero(item_rows >= 0)
    scores = np.full(len(user_rows), np.nan)
    for start in range(0, len(known), 8192):
        part = known[start : start + 8192]
        rows = {name: array[part] for name, array in values.items()}
        scores[part] = _exact_scores(
            model, user_rows[part], rows, own[part], np.arange(len(part), dtype=np.int64), item_rows[part]
        )
    return scores


def _aligned(model: Recommender, features: Features | None, n: int) -> Mapping[str, NDArray[np.float32]]:
    values: dict[str, NDArray[np.float32]] = {}
    for view in model.views:
        shape = (n, len(view.numeric))
        given = (features or {}).get(view.name)
        if given is None:
            values[view.name] = np.full(shape, np.nan, dtype=np.float32)
        elif given.shape != shape:
            raise ValueError(f"features of {view.name} have shape {given.shape}, the model reads {shape}")
        else:
            values[view.name] = np.asarray(given, dtype=np.float32)
    return values


def _float_scores(
    model: Recommender, user_rows: NDArray[np.int64], features: Features, own: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if own.all():
        scores = model.score(user_rows, features)
        return scores, model.score_error(user_rows, features, scores)
    scores = np.empty((len(user_rows), len(model.items)), dtype=np.float32)
    scores[~own] = model.popularity
    error = np.full(len(user_rows), 1e-6 * model.popularity.max(initial=0), dtype=np.float32)
    if own.any():
        rows, values = user_rows[own], {name: array[own] for name, array in features.items()}
        scores[own] = model.score(rows, values)
        error[own] = model.score_error(rows, values, scores[own])
    return scores, error


def _exact_scores(
    model: Recommender,
    user_rows: NDArray[np.int64],
    features: Features,
    own: NDArray[np.bool_],
    positions: NDArray[np.int64],
    item_rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    if own.all():
        return model.exact_scores(user_rows, features, positions, item_rows)
    scores = np.asarray(model.popularity[item_rows], dtype=np.float64)
    mine = own[positions]
    if mine.any():
        scores[mine] = model.exact_scores(user_rows, features, positions[mine], item_rows[mine])
    return scores


def _excluded_pairs(items: IdIndex, exclude: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = items.rows([identifier for ids in exclude for identifier in ids])
    positions = np.repeat(np.arange(len(exclude)), [len(ids) for ids in exclude])
    return positions[rows >= 0], rows[rows >= 0]


def _contenders(
    scores: NDArray[np.float32], error: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns (positions, item rows) of all items whose exact score may be among the k best of their user.

    k items have exact scores of at least the k-th float32 score less the error, so no item whose float32 score is
    more than twice the error below the k-th can be among the k best.
    """
    n_items = scores.shape[1]
    if n_items > k:
        if np.isnan(scores.max(axis=1)).any():
            # A model that gives no number for an item does not recommend it; NaN would sort as the largest.
            scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
        kth = np.partition(scores, n_items - k, axis=1)[:, n_items - k]
        doubt = np.where(np.isfinite(error), error, np.float32(np.inf))
        # Half an error more covers the rounding of this very subtraction.
        chosen = scores >= (kth - np.float32(2.5) * doubt)[:, None]
        chosen &= scores > -np.inf
    else:
        chosen = scores > -np.inf
    positions, item_rows = np.nonzero(chosen)
    return positions.astype(np.int64), item_rows.astype(np.int64)
