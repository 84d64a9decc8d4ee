"""NDCG@k and AUC of what was served, by the feedback that came in time."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from slipway.contracts.metrics import RANKING_DEPTHS
from slipway.models.metrics import ndcg
from slipway.serving.capture.rankings import auc, ndcg_at_depths, ranking_of

_specification = importlib.util.spec_from_file_location("days_of_users", Path(__file__).with_name("test_users.py"))
assert _specification is not None
assert _specification.loader is not None
_module = importlib.util.module_from_spec(_specification)
sys.modules[_specification.name] = _module
_specification.loader.exec_module(_module)
Day: Any = _module.Day


@pytest.mark.parametrize("seed", range(4))
def test_ndcg_of_clicks_is_that_of_the_evaluation_where_everything_liked_was_shown(seed: int) -> None:
    random = np.random.default_rng(seed)
    hit = random.random((1, 50)) < 0.1
    hit[0, 3] = True
    expected = [ndcg(hit, hit.sum(axis=1), k)[0] for k in RANKING_DEPTHS]
    assert ndcg_at_depths(hit[0].astype(float).tolist()) == pytest.approx(expected)


def test_ndcg_weighs_gains_by_place_against_the_best_order_of_what_was_served() -> None:
    by_depth = dict(zip(RANKING_DEPTHS, ndcg_at_depths([0.0, 0.5, 1.0]), strict=True))
    best = 1.0 + 0.5 / math.log2(3)
    assert by_depth[1] == 0.0
    assert by_depth[3] == by_depth[10] == pytest.approx((0.5 / math.log2(3) + 1.0 / 2) / best)
    assert set(ndcg_at_depths([1.0, 0.5, 0.0])) == {1.0}
    assert set(ndcg_at_depths([0.0, 0.0])) == set(ndcg_at_depths([])) == {0.0}


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_the_share_of_pairs_in_order_with_ties_as_halves(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, clicked = random.integers(0, 6, 30).astype(float), random.random(30) < 0.3
    items = [f"i{index}" for index in range(30)]
    expected = mannwhitneyu(scores[clicked], scores[~clicked]).statistic / (clicked.sum() * (~clicked).sum())
    gains = {item: 1.0 for item, one in zip(items, clicked, strict=True) if one}
    assert auc((items, scores.tolist()), gains) == pytest.approx(expected)


def test_auc_needs_both_kinds_of_items_and_a_score_for_each() -> None:
    assert auc((["a", "b"], [2.0, 1.0]), {}) is None
    assert auc((["a", "b"], [2.0, 1.0]), {"a": 1.0, "b": 1.0}) is None
    assert auc((["a", "b"], [2.0]), {"a": 1.0}) is None
    both = ranking_of([(["a", "b"], [2.0, 1.0]), (["c", "d"], [2.0, 1.0])], {"b": 1.0})
    assert (both.auc, both.ndcg[-1]) == (0.0, pytest.approx(0.5 / math.log2(3)))


def test_a_user_counts_with_the_first_answer_and_a_request_with_its_own(tmp_path: Path) -> None:
    day = Day(tmp_path)
    first, second = day.answer("ann"), day.answer("ann")
    day.answer("bob")
    assert day.feedback(first, "b0") == day.feedback(second, "a0") == "accepted"
    day.after(1.0)
    assert day.ranked("ndcg@10") == (0, 0, 0, 0)  # the waiting time is not over for anybody
    day.after(1.5)
    at_second_place = 1 / math.log2(3)
    squares = 1 + at_second_place**2
    assert day.ranked("ndcg@10") == (pytest.approx(1 + at_second_place), pytest.approx(squares), 3, 0)
    assert day.ranked("ndcg@10", "user") == (pytest.approx(at_second_place), pytest.approx(at_second_place**2), 2, 0)
    assert day.ranked("ndcg@1") == (1, 1, 3, 0)
    assert day.ranked("auc") == (1, 1, 2, 1)
    assert day.ranked("auc", "user") == (0, 0, 1, 1)


def test_gains_are_values_as_shares_of_their_maximum(tmp_path: Path) -> None:
    day = Day(tmp_path)
    request = day.answer("ann")
    day.feedback(request, "a0", "watch", 25.0)
    day.feedback(request, "b0", "watch", 500.0)
    day.feedback(request, "a0", "shared", 1.0)  # a type that the collector was not told of
    day.after(2.5)
    expected = (0.25 + 1 / math.log2(3)) / (1 + 0.25 / math.log2(3))
    assert day.ranked("ndcg@10", kind="watch")[0] == pytest.approx(expected)
    assert day.ranked("auc", kind="watch") == (0, 0, 0, 1)
    assert day.ranked("ndcg@10") == (0, 0, 1, 0)


def test_feedback_on_the_answer_for_another_user_is_not_the_first_users(tmp_path: Path) -> None:
    day = Day(tmp_path)
    request = day.answer("ann", "bob")
    day.feedback(request, "a1")
    day.after(2.5)
    assert day.ranked("ndcg@10", "user")[:3] == (0, 0, 1)
    assert day.ranked("ndcg@10")[:3] == (0.5, 0.25, 1)
    assert (day.ranked("auc", "user"), day.ranked("auc")) == ((0, 0, 0, 1), (1, 1, 1, 0))


def test_late_feedback_counts_for_nobody(tmp_path: Path) -> None:
    day = Day(tmp_path)
    request = day.answer("ann")
    day.after(2.5)
    assert day.feedback(request) == "late"
    day.after(1.0)
    assert day.ranked("ndcg@10") == (0, 0, 1, 0)
