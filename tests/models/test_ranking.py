"""The one top-k: equal to sorting everything by exact scores, whatever the batch, and honest about its fallback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue
from slipway.models.matrix_factorization.model import MatrixFactorization
from slipway.models.ranking import UNKNOWN_USER, recommend, recommend_batches, score_pairs
from slipway.models.seen import SeenItems
from slipway.models.standardisation import Standardisation


def factor_model(users: NDArray[Any], items: NDArray[Any], seen: list[tuple[int, int]]) -> MatrixFactorization:
    pairs = np.array(seen, dtype=np.int64).reshape(-1, 2)
    seen_items = SeenItems.from_pairs(pairs[:, 0], pairs[:, 1], n_users=len(users))
    counts = np.bincount(seen_items.item_rows, minlength=len(items))
    nothing = np.zeros(0)
    return MatrixFactorization(
        Catalogue(
            IdIndex.from_strings(f"u{row:05d}" for row in range(len(users))),
            IdIndex.from_strings(f"i{row:05d}" for row in range(len(items))),
            seen_items,
            counts / max(len(users), 1),
        ),
        user_offsets=users.astype(np.float32),
        item_factors=items.astype(np.float32),
        feature_weights=np.zeros((0, items.shape[1]), dtype=np.float32),
        standardisation=Standardisation((), nothing, nothing, nothing),
        parameters={},
    )


def slow_answer(model: MatrixFactorization, user: int, k: int, hidden: set[int]) -> list[str]:
    if user < 0:
        scores = np.asarray(model.popularity)
    else:
        exact = model.user_offsets[user].astype(np.float64) * model.item_factors.astype(np.float64)
        scores = np.add.reduce(np.ascontiguousarray(exact), axis=1)
    order = sorted((-scores[item], item) for item in range(len(scores)) if item not in hidden)
    return [f"i{item:05d}" for _, item in order[:k]]


@given(
    seed=st.integers(0, 2**32 - 1),
    n_users=st.integers(1, 8),
    n_items=st.integers(1, 40),
    k=st.integers(1, 12),
    levels=st.sampled_from([0, 1, 2, 1000]),
    exclude_seen=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_answers_are_those_of_sorting_all_items_by_exact_score_with_ties_by_id(
    seed: int, n_users: int, n_items: int, k: int, levels: int, exclude_seen: bool
) -> None:
    generator = np.random.default_rng(seed)
    # Few levels make many exact ties, none makes all scores equal.
    users = generator.integers(-levels, levels + 1, (n_users, 3)) / 7
    items = generator.integers(-levels, levels + 1, (n_items, 3)) / 3
    seen = [(int(row % n_users), int(row % n_items)) for row in generator.integers(0, 10**6, 10)]
    model = factor_model(users, items, seen)
    asked = [f"u{row:05d}" for row in range(n_users)] + ["stranger"]
    exclude = [[f"i{int(item):05d}", "no such item"] for item in generator.integers(0, n_items, n_users + 1)]
    allowed = [item for item in range(n_items) if item % 3 != 1]
    answer = recommend(
        model, asked, k=k, exclude_seen=exclude_seen, exclude=exclude, candidates=[f"i{row:05d}" for row in allowed]
    )
    for position, user in enumerate([*range(n_users), -1]):
        hidden = set(range(n_items)) - set(allowed) | {int(exclude[position][0][1:])}
        if exclude_seen:
            hidden |= {item for owner, item in seen if owner == user}
        assert answer.items[position] == slow_answer(model, user, k, hidden)
    assert answer.fallback == [None] * n_users + [UNKNOWN_USER]


def test_an_answer_does_not_depend_on_the_batch_to_the_last_bit() -> None:
    generator = np.random.default_rng(1)
    model = factor_model(generator.normal(size=(300, 48)), generator.normal(size=(2000, 48)), [(0, 1), (5, 3)])
    users = [f"u{row:05d}" for row in range(300)]
    together = recommend(model, users, k=10)
    for size in (1, 7, 64):
        parts = [recommend(model, users[start : start + size], k=10) for start in range(0, 300, size)]
        assert [items for part in parts for items in part.items] == together.items
        assert [scores for part in parts for scores in part.scores] == together.scores
    batches = list(recommend_batches(model, users, k=10, batch_bytes=2000 * 10 * 13))
    assert [len(batch) for batch, _ in batches] == [13] * 23 + [1]
    assert [items for _, part in batches for items in part.items] == together.items


def test_given_pairs_score_as_in_the_answer() -> None:
    generator = np.random.default_rng(2)
    model = factor_model(generator.normal(size=(20, 8)), generator.normal(size=(50, 8)), [(0, 1), (1, 1)])
    answer = recommend(model, ["u00003", "stranger"], k=5)
    users = ["u00003"] * 5 + ["stranger"] * 5
    scores = score_pairs(model, users, answer.items[0] + answer.items[1])
    assert scores.tolist() == answer.scores[0] + answer.scores[1]
    assert np.isnan(score_pairs(model, ["u00003"], ["no such item"]))[0]


def test_scores_that_are_no_numbers_are_not_recommended() -> None:
    items = np.ones((30, 2))
    items[4] = np.nan
    model = factor_model(np.ones((1, 2)), items, [])
    assert "i00004" not in recommend(model, ["u00000"], k=29).items[0]
    assert recommend(model, ["u00000"], k=3).items[0] == ["i00000", "i00001", "i00002"]


def test_nobody_and_no_items_left_give_empty_answers() -> None:
    model = factor_model(np.ones((1, 2)), np.ones((2, 2)), [(0, 0), (0, 1)])
    assert recommend(model, [], k=3).items == []
    assert recommend(model, ["u00000"], k=3).items == [[]]
    assert recommend(model, ["u00000"], k=3, exclude_seen=False).items == [["i00000", "i00001"]]


def test_wrong_arguments_are_refused() -> None:
    model = factor_model(np.ones((1, 2)), np.ones((2, 2)), [])
    with pytest.raises(ValueError, match="at least 1"):
        recommend(model, ["u00000"], k=0)
    with pytest.raises(ValueError, match="lists to exclude"):
        recommend(model, ["u00000"], k=1, exclude=[[], []])
    with pytest.raises(ValueError, match="users for"):
        score_pairs(model, ["u00000"], [])
