"""Ranking metrics against hand-computed values and slow, obvious definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slipway.models import metrics
from slipway.models.bootstrap import PairedBootstrap
from slipway.models.seen import SeenItems


def _sets(*rows: list[int]) -> SeenItems:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return SeenItems.from_pairs(users, items, n_users=len(rows))


def test_list_metrics_equal_values_computed_by_hand() -> None:
    lists = np.array([[4, 1, 2], [0, 3, -1], [5, 6, 7]])
    relevant = _sets([1, 2, 9], [3], [0])
    n_relevant = np.array([3, 1, 1])
    hit = metrics.hits(lists, relevant)
    assert hit.tolist() == [[False, True, True], [False, True, False], [False, False, False]]
    assert metrics.hit_rate(hit, 1).tolist() == [0, 0, 0]
    assert metrics.hit_rate(hit, 3).tolist() == [1, 1, 0]
    assert metrics.recall(hit, n_relevant, 3) == pytest.approx([2 / 3, 1, 0])
    assert metrics.reciprocal_rank(hit, 3) == pytest.approx([1 / 2, 1 / 2, 0])
    dcg = 1 / math.log2(3) + 1 / math.log2(4)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics.ndcg(hit, n_relevant, 3) == pytest.approx([dcg / ideal, 1 / math.log2(3), 0])


def test_a_perfect_list_has_ndcg_one_even_with_more_relevant_items_than_k() -> None:
    hit = metrics.hits(np.array([[0, 1]]), _sets([0, 1, 2, 3]))
    assert metrics.ndcg(hit, np.array([4]), 2) == pytest.approx([1.0])


def test_metrics_of_a_user_without_relevant_items_are_not_a_number() -> None:
    hit = metrics.hits(np.array([[0, 1]]), _sets([]))
    assert math.isnan(metrics.ndcg(hit, np.array([0]), 2)[0])
    assert math.isnan(metrics.recall(hit, np.array([0]), 2)[0])


def test_padding_is_never_a_hit() -> None:
    assert not metrics.hits(np.array([[-1, -1], [-1, 0]]), _sets([2], [1])).any()


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_rank_over_the_catalogue_equal_the_definition_pair_by_pair(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, size=(20, 30)).astype(np.float32)  # small integers: many ties
    seen = generator.random((20, 30)) < 0.2
    scores[seen] = -np.inf
    good = generator.random((20, 30)) < 0.15
    relevant = _sets(*[np.flatnonzero(row).tolist() for row in good])
    result = metrics.whole_ranking(scores, relevant)
    for user in range(20):
        inside = np.isfinite(scores[user])
        mine, rest = scores[user][good[user] & inside], scores[user][~good[user] & inside]
        if not len(mine):
            assert math.isnan(result.auc[user])
            assert result.reciprocal_rank[user] == 0
            continue
        expected = np.mean([(a > b) + 0.5 * (a == b) for a in mine for b in rest])
        assert result.auc[user] == pytest.approx(expected)
        order = sorted(np.flatnonzero(inside), key=lambda item: (-scores[user, item], item))
        first = next(rank for rank, item in enumerate(order, start=1) if good[user, item])
        assert result.reciprocal_rank[user] == pytest.approx(1 / first)


def test_ranking_of_candidates_agrees_with_the_whole_catalogue_when_they_are_the_same() -> None:
    generator = np.random.default_rng(3)
    scores = generator.integers(0, 5, size=(8, 12)).astype(np.float32)
    good = generator.random((8, 12)) < 0.3
    whole = metrics.whole_ranking(scores, _sets(*[np.flatnonzero(row).tolist() for row in good]))
    listed = metrics.listed_ranking(scores.astype(np.float64).ravel(), good.ravel(), np.arange(9) * 12)
    np.testing.assert_allclose(listed.auc, whole.auc)
    np.testing.assert_allclose(listed.reciprocal_rank, whole.reciprocal_rank)


def test_random_scores_have_auc_one_half_and_perfect_scores_one() -> None:
    generator = np.random.default_rng(0)
    relevant = _sets(*[[0, 1]] * 400)
    random = metrics.whole_ranking(generator.random((400, 200), dtype=np.float32), relevant)
    assert random.auc.mean() == pytest.approx(0.5, abs=0.03)
    perfect = metrics.whole_ranking(np.tile(-np.arange(200, dtype=np.float32), (3, 1)), _sets([0, 1], [0], [0, 1, 2]))
    assert perfect.auc.tolist() == [1, 1, 1]


def test_coverage_counts_the_items_that_anyone_is_shown() -> None:
    assert metrics.coverage(np.array([[0, 1], [1, -1]]), 2, 4) == 0.5
    assert metrics.coverage(np.array([[0, 1], [1, -1]]), 1, 4) == 0.5


def test_popularity_percentile_is_one_half_on_average_and_high_for_popular_lists() -> None:
    percentiles = metrics.popularity_percentiles(np.array([5.0, 1.0, 1.0, 9.0]))
    assert percentiles.tolist() == [0.625, 0.25, 0.25, 0.875]
    assert percentiles.mean() == 0.5
    assert metrics.mean_popularity_percentile(np.array([[3, 0, -1]]), 2, percentiles) == 0.75


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for trial in range(200):
        values = (generator.random((150, 1)) < 0.3).astype(np.float64)
        interval = PairedBootstrap(values, samples=300, seed=trial, confidence=0.9).mean(0)
        covered += interval.low <= 0.3 <= interval.high
    assert 165 <= covered <= 195  # 180 expected, standard deviation 4.2


def test_paired_change_is_tighter_than_the_difference_of_the_two_intervals() -> None:
    generator = np.random.default_rng(5)
    base = generator.gamma(1.0, 1.0, size=500)
    values = np.stack([base * 1.1, base], axis=1)
    bootstrap = PairedBootstrap(values, samples=500, seed=0)
    change = bootstrap.relative_change(0, 1)
    assert change.value == pytest.approx(0.1)
    assert change.high - change.low < 1e-9
    mean = bootstrap.mean(1)
    assert mean.high - mean.low > 0.1


def test_bootstrap_is_the_same_for_the_same_seed_and_leaves_missing_values_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, 2.0], [np.nan, 4.0]])
    first, second = (PairedBootstrap(values, samples=200, seed=9).mean(0) for _ in range(2))
    assert first == second
    assert first.value == 2.0
    assert first.users == 2


def test_a_change_against_a_reference_of_zero_is_not_finite() -> None:
    change = PairedBootstrap(np.array([[1.0, 0.0], [1.0, 0.0]]), samples=100, seed=0).relative_change(0, 1)
    assert not math.isfinite(change.value)
