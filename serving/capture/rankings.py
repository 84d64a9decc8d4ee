"""How well an answer ranked the items that got feedback: NDCG@k and AUC of one request, from 0 to 1.

Both look at what was served and at nothing else: what an item that was not shown would have got, nobody knows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipway.contracts.metrics import RANKING_DEPTHS

Answer = tuple[Sequence[str], Sequence[float]]
"""Items, best first, and their scores; fewer scores than items where some have none."""

_DISCOUNTS = tuple(1 / math.log2(place + 2) for place in range(max(RANKING_DEPTHS)))


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well the answers to one request ranked.

    Attributes:
        ndcg: NDCG@k for each k of RANKING_DEPTHS, the mean over the answers; an answer without any gain counts as 0.
        auc: Mean over the answers that have one, None without any.
    """

    ndcg: tuple[float, ...]
    auc: float | None


def ranking_of(answers: Sequence[Answer], gains: Mapping[str, float]) -> Ranking:
    """Returns how well the answers to one request ranked the items with a gain.

    Args:
        answers: One a user asked about; at least one.
        gains: By item, above 0 and at most 1; other items have none.
    """
    found = [ndcg_at_depths([gains.get(item, 0.0) for item in items]) for items, _ in answers]
    areas = [area for answer in answers if (area := auc(answer, gains)) is not None]
    means = tuple(sum(column) / len(found) for column in zip(*found, strict=True))
    return Ranking(means, sum(areas) / len(areas) if areas else None)


def ndcg_at_depths(gains: Sequence[float]) -> tuple[float, ...]:
    """Returns NDCG@k for each k of RANKING_DEPTHS: the gain of each place, discounted by log2 of its number plus 1, as
    a share of the same of the best order of the whole answer (Jarvelin and Kekalainen 2002); 0 without any gain.

    Args:
        gains: By place.
    """
    ideal = _discounted(sorted(gains, reverse=True))
    return tuple(here / best if best > 0 else 0.0 for here, best in zip(_discounted(gains), ideal, strict=True))


def auc(answer: Answer, gains: Mapping[str, float]) -> float | None:
    """Returns the chance that an item with a gain was scored above one without, ties counting half (Hanley and McNeil
    1982); None where all items are of one kind, or some have no score.

    Args:
        answer: Items and scores.
        gains: By item.
    """
    items, scores = answer
    if len(scores) < len(items):
        return None
    positives = sum(item in gains for item in items)
    negatives = len(items) - positives
    if not positives or not negatives:
        return None
    won = below = 0.0
    ranked = sorted((score, item in gains) for score, item in zip(scores, items, strict=False))
    for _, tied in itertools.groupby(ranked, key=lambda pair: pair[0]):
        kinds = [kind for _, kind in tied]
        others = kinds.count(False)
        won += kinds.count(True) * (below + others / 2)
        below += others
    return won / (positives * negatives)


def _discounted(gains: Sequence[float]) -> list[float]:
    """Returns the discounted cumulative gain at each k of RANKING_DEPTHS."""
    total, sums = 0.0, []
    terms = [gain * discount for gain, discount in zip(gains, _DISCOUNTS, strict=False)]
    done = 0
    for depth in RANKING_DEPTHS:
        total += sum(terms[done:depth])
        done = depth
        sums.append(total)
    return sums
