"""Layers: exclusive within, independent between, and conflicts refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from slipway.contracts.errors import RefusedError, UsageError
from slipway.serving.experiments.layers import LAYER_BUCKETS, Experiment, Layers

USERS = [f"user-{number}" for number in range(20_000)]
HALVES = {"control": 50, "candidate": 50}
NEVER_BY_CHANCE = 1e-9


def ranged(name: str, start: int, stop: int, layer: str = "ranking", **more: object) -> Experiment:
    return Experiment(name, layer, HALVES, None, start, stop, **more)  # type: ignore[arg-type]


def test_a_user_is_in_one_experiment_of_a_layer_at_most_and_shares_are_as_set() -> None:
    layers = Layers("s", [ranged("a", 0, 300), ranged("b", 300, 1000), ranged("c", 0, 100, "page")])
    arms = layers.arms_of_users(USERS)
    part = {name: found >= 0 for name, found in arms.items()}
    assert not (part["a"] & part["b"]).any()
    assert (part["a"] | part["b"]).all()
    for name, share in (("a", 0.3), ("b", 0.7), ("c", 0.1)):
        assert part[name].mean() == pytest.approx(share, abs=0.015)
        assert (arms[name][part[name]] == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_experiments_of_two_layers_are_independent() -> None:
    layers = Layers("s", [ranged("a", 0, 500), ranged("b", 500, 1000), ranged("c", 0, 1000, "page")])
    arms = layers.arms_of_users(USERS)
    rows, columns = arms["a"] + 1, arms["c"]
    table = np.zeros((3, 2))
    np.add.at(table, (rows, columns), 1)
    assert chi2_contingency(table).pvalue > NEVER_BY_CHANCE


def test_the_next_experiment_in_a_range_splits_its_users_anew() -> None:
    first = Layers("s", [ranged("first", 0, 500)]).arms_of_users(USERS)["first"]
    then = Layers("s", [ranged("then", 0, 500)]).arms_of_users(USERS)["then"]
    assert ((first >= 0) == (then >= 0)).all()
    inside = first >= 0
    assert (first[inside] == then[inside]).mean() == pytest.approx(0.5, abs=0.02)


def test_a_growing_range_keeps_everyone_who_was_in() -> None:
    before = Layers("s", [ranged("a", 100, 200)]).arms_of_users(USERS)["a"]
    after = Layers("s", [ranged("a", 100, 600)]).arms_of_users(USERS)["a"]
    inside = before >= 0
    assert (before[inside] == after[inside]).all()


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, LAYER_BUCKETS), min_size=2, max_size=8, unique=True),
    salt=st.text(min_size=1, max_size=8),
)
def test_the_vectorised_version_equals_the_scalar_one(cuts: list[int], salt: str) -> None:
    edges = sorted(cuts)
    made = [ranged(f"e{index}", *pair) for index, pair in enumerate(zip(edges[::2], edges[1::2], strict=False))]
    layers = Layers(salt, [*made, Experiment("other", "page", {"a": 20, "b": 30, "c": 50}, "b")])
    users = USERS[:100]
    many = layers.arms_of_users(users)
    for index, user in enumerate(users):
        one = layers.arms_of(user)
        for experiment in layers.experiments:
            at = many[experiment.name][index]
            assert one.get(experiment.name) == (list(experiment.arms)[at] if at >= 0 else None)


def test_overlapping_ranges_are_refused_by_name() -> None:
    with pytest.raises(RefusedError, match=r"a \(buckets 0 to 300\) and b \(299 to 400\) would share users") as caught:
        Layers("s", [ranged("b", 299, 400), ranged("a", 0, 300)])
    assert caught.value.where == "layer ranking"
    assert caught.value.exit_code == 3


def test_what_two_layers_change_is_refused_and_one_layer_may() -> None:
    one = ranged("a", 0, 300, changes=frozenset({"temperature", "x"}))
    other = ranged("b", 0, 300, "page", changes=frozenset({"temperature"}))
    with pytest.raises(RefusedError, match="both change temperature"):
        Layers("s", [one, other])
    Layers("s", [one, ranged("b", 300, 400, changes=frozenset({"temperature"}))])


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(RefusedError, match="two experiments named a"):
        Layers("s", [ranged("a", 0, 100), ranged("a", 100, 200)])


def test_a_place_is_found_or_refused_with_who_holds_it() -> None:
    layers = Layers("s", [ranged("a", 100, 400), ranged("b", 500, 1000)])
    assert layers.free("ranking") == [(0, 100), (400, 500)]
    assert layers.free("unused") == [(0, 1000)]
    placed = layers.with_experiment(ranged("c", 0, 1), buckets=100)
    assert (placed.experiments[-1].start, placed.experiments[-1].stop) == (0, 100)
    with pytest.raises(RefusedError, match=r"no gap of 101 buckets; the widest has 100.*a \(300\), b \(500\)"):
        try:
            layers.with_experiment(ranged("c", 0, 1), buckets=101)
        except RefusedError as error:
            raise RefusedError(str(error)) from error
    freed = layers.without("a").with_experiment(ranged("c", 0, 1), buckets=500)
    assert freed.experiments[-1].start == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a b", "l", HALVES), "cannot be named"),
        (("a", "l/x", HALVES), "a layer cannot be named"),
        (("a", "l", {"x": 50}), "experiment a: the weights of x sum to 50"),
        (("a", "l", HALVES, "nobody"), "none of the arms"),
        (("a", "l", HALVES, None, 5, 5), "no range"),
        (("a", "l", HALVES, None, 0, 1001), "no range"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Experiment(*arguments)  # type: ignore[arg-type]
    assert says in str(caught.value)
