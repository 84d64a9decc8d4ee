"""Answers to copies beside those that the users got: which belong together, and how alike they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import kendalltau

from slipway.contracts.events import AnsweredEntity, PredictionEvent, RequestSigner, prediction_event
from slipway.serving.capture.shadow import ShadowComparison, ShadowMetrics, compare

SIGNER = RequestSigner(b"k" * 32)
START = 1_700_000_000.0


def answer(items: str, scores: tuple[float, ...] = (), user: str = "u") -> AnsweredEntity:
    return AnsweredEntity(user=user, items=tuple(items), scores=scores)


class Setting:
    """A comparison with a clock that the test moves."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.comparison = ShadowComparison(SIGNER, ShadowMetrics(self.registry), expiry=60.0, **options)

    def take(self, entity: AnsweredEntity, at: float = 0.0, *, signer: RequestSigner = SIGNER, **data: Any) -> bool:
        version = "2" if data.get("shadow") else "1"
        content = {
            "request_id": signer.issue("films", version, START + at),
            "model": "films",
            "version": version,
            "latency_ms": 1.0,
            "entities": [entity.model_dump(mode="json")],
        } | data
        event = PredictionEvent.model_validate(prediction_event(content, seconds=START + at))
        return self.comparison.take(event, START + at)

    def value(self, name: str) -> float | None:
        labels = {"model": "films", "version": "2"}
        return self.registry.get_sample_value(f"slipway_shadow_{name}_total", labels)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_two_answers_are_compared_by_items_order_and_scores() -> None:
    same = compare(answer("abcd", (4.0, 3.0, 2.0, 1.0)), answer("abcd", (4.0, 3.0, 2.0, 1.0)))
    assert (same.agreement, same.rank_correlation, same.score_difference) == (1.0, 1.0, 0.0)
    turned = compare(answer("abcd"), answer("dcba"))
    assert (turned.agreement, turned.rank_correlation, turned.score_difference) == (1.0, 0.0, None)
    # b and c in common, of k = 4; their order is turned round; |3-1|/4 and |2-2|/4.
    partly = compare(answer("abc", (4.0, 3.0, 2.0)), answer("xcby", (9.0, 2.0, 1.0, 0.5)))
    assert (partly.agreement, partly.rank_correlation, partly.score_difference) == (0.5, 0.0, 0.25)
    assert compare(answer(""), answer("")).agreement == 1.0
    assert compare(answer(""), answer("ab")).agreement == 0.0
    assert compare(answer("ab"), answer("bc")).rank_correlation is None


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_kendalls_tau_of_the_items_in_common(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (random.permutation(40)[:25].tolist() for _ in range(2))
    common = sorted(set(one) & set(other))
    expected = kendalltau([one.index(item) for item in common], [other.index(item) for item in common]).statistic
    found = compare(answer("".join(map(chr, one))), answer("".join(map(chr, other)))).rank_correlation
    assert found == pytest.approx((expected + 1) / 2)


@pytest.mark.parametrize("copy_first", [False, True])
def test_original_and_copy_meet_by_the_gateways_id_in_whatever_order_they_come(
    setting: Setting, copy_first: bool
) -> None:
    events = [(answer("abcd"), {}), (answer("abxy"), {"shadow": True})]
    for entity, data in reversed(events) if copy_first else events:
        assert setting.take(entity, trace_id="t1", **data)
    setting.take(answer("abcd"), trace_id="t2")
    assert (setting.value("pairs"), setting.value("agreement"), setting.value("agreement_squares")) == (1, 0.5, 0.25)
    assert (setting.value("rank_pairs"), setting.value("rank_correlation")) == (1, 1.0)
    assert setting.value("score_pairs") == 0
    assert len(setting.comparison) == 1


def test_each_event_is_used_once_and_users_of_one_trace_are_told_apart(setting: Setting) -> None:
    setting.take(answer("ab", user="u"), trace_id="t")
    setting.take(answer("cd", user="v"), trace_id="t")
    setting.take(answer("cd", user="v"), trace_id="t", shadow=True)
    assert setting.value("agreement") == 1.0
    setting.take(answer("cd", user="v"), trace_id="t", shadow=True)
    assert setting.value("pairs") == 1
    setting.comparison.tick(START + 16)
    assert setting.value("unpaired") == 1
    assert len(setting.comparison) == 0


def test_without_an_id_the_nearest_answer_for_the_same_user_is_the_one(setting: Setting) -> None:
    setting.take(answer("ab"), 0.0)
    setting.take(answer("cd"), 1.0)
    setting.take(answer("cd"), 1.2, shadow=True)
    assert (setting.value("pairs"), setting.value("agreement")) == (1, 1.0)
    setting.take(answer("ab"), 3.0, shadow=True)  # too far from the one that is left
    assert setting.value("pairs") == 1


def test_forged_events_are_left_out_and_memory_is_bounded() -> None:
    setting = Setting(maximum_waiting=100)
    forger = RequestSigner(b"x" * 32)
    assert not setting.take(answer("ab"), trace_id="t", shadow=True, signer=forger)
    for number in range(1000):
        setting.take(answer("ab"), trace_id=f"t{number}")
    assert len(setting.comparison) == 10  # no copies yet: just enough for the first ones
    setting.take(answer("ab"), trace_id="t999", shadow=True)
    assert setting.value("pairs") == 1
    for number in range(1000):
        setting.take(answer("ab"), trace_id=f"s{number}", shadow=True)
    assert len(setting.comparison) == 100
    setting.comparison.tick(START + 16)
    assert setting.value("unpaired") == 1000
