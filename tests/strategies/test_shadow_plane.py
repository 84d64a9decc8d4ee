"""A version that answers copies on a real plane: real predictors, and figures that equal the models' own rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slipway.contracts.events import AnsweredEntity
from slipway.models.families import load_model
from slipway.models.interface import Recommender
from slipway.models.ranking import recommend
from slipway.serving.capture.shadow import compare

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_shadow")]

USERS, K = 60, 10


def answers(model: Recommender, users: list[str]) -> list[AnsweredEntity]:
    ranked = recommend(model, users, k=K)
    return [
        AnsweredEntity(user=user, items=tuple(items), scores=tuple(scores))
        for user, items, scores in zip(users, ranked.items, ranked.scores, strict=True)
    ]


def value(plane: Any, name: str, version: str) -> float:
    rows = plane.scraped(f'{name}{{version="{version}"}}')
    return sum(float(row["value"][1]) for row in rows)


@pytest.fixture
def shadowed(plane: Any, wanted: Any, bundle: Any, real_predictors: Any) -> tuple[Any, list[Recommender]]:
    """Version 1 serves everyone, and version 2 gets a copy of every request."""
    bundles = {"1": bundle(0.0), "2": bundle(0.5)}
    arms = [plane.arm(version, replicas=1, bundle=path) for version, path in bundles.items()]
    wanted(plane, arms, {"films-v1": 100, "films-v2": 0}, mirrors={"films-v2": 100})
    plane.up(**real_predictors)
    plane.eventually(lambda: plane.observed.arms["films-v2"].mirror_applied == 100)
    return plane, [load_model(path) for path in bundles.values()]


def test_answers_to_copies_are_compared_and_never_count_as_answers_without_a_click(
    shadowed: Any, visitors: Any, counts: Any
) -> None:
    plane, (first, second) = shadowed
    users = [str(user) for user in range(USERS)]
    expected = [compare(one, other) for one, other in zip(answers(first, users), answers(second, users), strict=True)]
    with visitors(plane.gateway_port, total=5 * USERS, users=USERS) as load:
        load.finish()
    assert load.codes == {200: 5 * USERS}
    assert load.versions == {"1": 5 * USERS}
    plane.eventually(lambda: value(plane, "slipway_shadow_pairs_total", "2") == 5 * USERS)
    for name, figures in (
        ("agreement", [one.agreement for one in expected]),
        ("rank_correlation", [one.rank_correlation for one in expected]),
        ("score_difference", [one.score_difference for one in expected]),
    ):
        assert 0.05 < np.mean(figures) < 0.95
        for suffix, power in (("total", 1), ("squares_total", 2)):
            total = 5 * sum(figure**power for figure in figures)
            assert value(plane, f"slipway_shadow_{name}_{suffix}", "2") == pytest.approx(total, rel=1e-4)
    # Both versions answered, and are counted at gateway and predictor alike; only the users' answers wait for clicks.
    plane.eventually(lambda: counts(plane, "films-v2") == counts(plane, "films-v1") == 5 * USERS)
    plane.eventually(lambda: value(plane, "slipway_predictions_total", "2") == 5 * USERS)
    plane.eventually(lambda: value(plane, "slipway_joined_requests_total", "1") == 5 * USERS)
    assert value(plane, "slipway_joined_requests_total", "2") == 0
    for version in "12":  # a scrape that a busy machine was too late for leaves a gap
        plane.eventually(lambda version=version: value(plane, "process_cpu_seconds_total", version) > 0)
        plane.eventually(lambda version=version: value(plane, "process_resident_memory_bytes", version) > 1 << 20)
