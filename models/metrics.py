"""Ranking metrics on row numbers, one value a user, and what is computed from all users' lists together.

Every metric here is binary: an item is relevant or it is not. A user's list may be shorter than k; relevant items that
a model does not know count as missed. Formulas are those of Rendle et al. 2020, "Neural collaborative filtering vs.
matrix factorization revisited", and Jarvelin and Kekalainen 2002 for NDCG.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipway.models.seen import SeenItems

DEFINITIONS = {
    "hr": "share of users with at least one relevant item among the first k",
    "ndcg": "DCG@k with binary gains and log2 discount, over the DCG of min(k, relevant) items in front",
    "recall": "relevant items among the first k, over all relevant items of the user",
    "mrr": "one over the rank of the first relevant item; 0 if there is none in the list",
    "auc": "share of (relevant, other) pairs of items not seen in training that are in the right order, ties half",
    "coverage": "share of the catalogue that appears in at least one user's first k",
    "popularity_percentile": "mean percentile of training popularity of the recommended items; 0.5 is unbiased",
}


def hits(lists: NDArray[np.int64], relevant: SeenItems) -> NDArray[np.bool_]:
    """Says which recommended items are relevant.

    Args:
        lists: int64 [n, k] item rows, best first, -1 where the list has ended.
        relevant: Relevant item rows of the n users.

    Returns:
        bool [n, k].
    """
    width = int(max(lists.max(initial=-1), relevant.item_rows.max(initial=-1))) + 1
    owners = np.repeat(np.arange(len(lists), dtype=np.int64), np.diff(relevant.offsets))
    wanted = owners * width + relevant.item_rows
    given = np.arange(len(lists), dtype=np.int64)[:, None] * width + lists
    found: NDArray[np.bool_] = np.isin(given, wanted) & (lists >= 0)
    return found


def hit_rate(hit: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Returns 1.0 for each user with a hit among the first k, else 0.0; shape [n]."""
    return np.asarray(hit[:, :k].any(axis=1), dtype=np.float64)


def recall(hit: NDArray[np.bool_], n_relevant: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Returns hits among the first k over the number of relevant items; NaN for a user who has none."""
    return _ratio(hit[:, :k].sum(axis=1), n_relevant)


def ndcg(hit: NDArray[np.bool_], n_relevant: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Returns normalised discounted cumulative gain at k; NaN for a user without relevant items."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains = hit[:, :k] @ discounts[: min(k, hit.shape[1])]
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(n_relevant, k)]
    return _ratio(gains, ideal)


def reciprocal_rank(hit: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Returns one over the rank of the first hit among the first k, 0.0 without one; shape [n]."""
    cut = hit[:, :k]
    if not cut.shape[1]:
        return np.zeros(len(cut))
    return np.asarray(cut.any(axis=1) / (1.0 + cut.argmax(axis=1)), dtype=np.float64)


@dataclass(frozen=True)
class WholeRanking:
    """`auc`, `reciprocal_rank`: float64 [n]; NaN and 0 where the model ranks no relevant item of the user."""

    auc: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]


def whole_ranking(scores: NDArray[np.float32], relevant: SeenItems) -> WholeRanking:
    """Judges complete rankings.

    Args:
        scores: float [n, n_items]; -inf marks items outside the ranking (seen in training).
        relevant: Relevant item rows of the n users.
    """
    n, n_items = scores.shape
    auc, reciprocal = np.full(n, np.nan), np.zeros(n)
    ordered = np.sort(scores, axis=1)
    for user in range(n):
        rows = relevant.of(user)
        values = scores[user, rows]
        inside = np.isfinite(values)
        rows, values = rows[inside], values[inside]
        if not len(rows):
            continue
        outside = int(np.searchsorted(ordered[user], -np.inf, side="right"))
        lower = np.searchsorted(ordered[user], values, side="left")
        not_higher = np.searchsorted(ordered[user], values, side="right")
        m, others = len(rows), n_items - outside - len(rows)
        if others:
            # Among themselves the m relevant items share out m(m-1)/2 wins, and each ties with itself.
            wins = (lower - outside + 0.5 * (not_higher - lower)).sum() - 0.5 * m * m
            auc[user] = wins / (m * others)
        best = rows[values == values.max()].min()
        ahead = n_items - int(not_higher.max()) + int((scores[user, :best] == values.max()).sum())
        reciprocal[user] = 1.0 / (1 + ahead)
    return WholeRanking(auc, reciprocal)


def listed_ranking(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], offsets: NDArray[np.int64]
) -> WholeRanking:
    """Judges rankings of each user's own candidates.

    Args:
        scores: float64 [p]; the candidates of user u are `offsets[u]:offsets[u + 1]`, in the order that breaks ties.
        relevant: bool [p].
        offsets: int64 [n + 1].
    """
    n = len(offsets) - 1
    auc, reciprocal = np.full(n, np.nan), np.zeros(n)
    for user in range(n):
        part = slice(offsets[user], offsets[user + 1])
        inside = np.isfinite(scores[part])
        values, good = scores[part][inside], relevant[part][inside]
        m, others = int(good.sum()), int((~good).sum())
        if not m:
            continue
        if others:
            rest = np.sort(values[~good])
            lower = np.searchsorted(rest, values[good], side="left")
            not_higher = np.searchsorted(rest, values[good], side="right")
            auc[user] = 0.5 * (lower + not_higher).sum() / (m * others)
        order = np.argsort(-values, kind="stable")
        reciprocal[user] = 1.0 / (1 + int(good[order].argmax()))
    return WholeRanking(auc, reciprocal)


def coverage(lists: NDArray[np.int64], k: int, n_items: int) -> float:
    """Returns the share of `n_items` that appears in the first k of at least one list [n, >= k]."""
    shown = np.unique(lists[:, :k])
    return float((shown >= 0).sum() / n_items) if n_items else float("nan")


def popularity_percentiles(popularity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns for each item the share of items that are less popular, ties half; shape [n_items], mean 0.5."""
    ordered = np.sort(popularity)
    lower = np.searchsorted(ordered, popularity, side="left")
    not_higher = np.searchsorted(ordered, popularity, side="right")
    return np.asarray(0.5 * (lower + not_higher) / max(len(popularity), 1), dtype=np.float64)


def mean_popularity_percentile(lists: NDArray[np.int64], k: int, percentiles: NDArray[np.float64]) -> float:
    """Returns the mean percentile over all recommended items among the first k; NaN if nothing was recommended."""
    shown = lists[:, :k]
    shown = shown[shown >= 0]
    return float(percentiles[shown].mean()) if len(shown) else float("nan")


def _ratio(
    numerator: NDArray[np.float64] | NDArray[np.int64], denominator: NDArray[np.float64] | NDArray[np.int64]
) -> NDArray[np.float64]:
    result = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result
