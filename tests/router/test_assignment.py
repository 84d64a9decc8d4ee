"""Assignment: uniform, independent between layers, the same everywhere, and with as few moves as possible."""

from __future__ import annotations

import subprocess
import sys
import time
from fractions import Fraction
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency

from slipway.contracts.errors import UsageError
from slipway.serving.router.assignment import BUCKETS, Assignment, bucket_of, buckets_of, hash_prefix

USERS = [str(number) for number in range(20_000)]
NEVER_BY_CHANCE = 1e-9
texts = st.text(min_size=1, max_size=20)


@st.composite
def weights(draw: st.DrawFn, arms: int) -> list[int]:
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=arms - 1, max_size=arms - 1)))
    return [after - before for before, after in pairwise([0, *cuts, 100])]


def two(candidate: float) -> Assignment:
    return Assignment("salt", "films", {"films-v1": 100 - candidate, "films-v2": candidate})


def test_the_hash_is_blake2b_of_lengths_salt_layer_and_user() -> None:
    text = b"\x00\x00\x00\x02st\x00\x00\x00\x03lay42"
    expected = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
    assert bucket_of(hash_prefix("st", "lay"), "42") == expected


def test_salt_and_layer_cannot_be_mistaken_for_each_other() -> None:
    assert bucket_of(hash_prefix("ab", "c"), "d") != bucket_of(hash_prefix("a", "bc"), "d")


@settings(max_examples=25, deadline=None)
@given(salt=texts, layer=texts, percents=weights(3))
def test_every_arm_gets_its_share(salt: str, layer: str, percents: list[int]) -> None:
    assignment = Assignment(salt, layer, dict(zip("abc", percents, strict=True)))
    counts = np.bincount(assignment.arms_of(USERS), minlength=3)
    expected = np.array(percents) * len(USERS) / 100
    assert (counts[expected == 0] == 0).all()
    used = expected > 0
    statistic = float(((counts[used] - expected[used]) ** 2 / expected[used]).sum())
    assert chi2.sf(statistic, max(1, used.sum() - 1)) > NEVER_BY_CHANCE


@settings(max_examples=25, deadline=None)
@given(salt=texts, layers=st.lists(texts, min_size=2, max_size=2, unique=True))
def test_layers_are_independent(salt: str, layers: list[str]) -> None:
    arms = {"a": 20, "b": 30, "c": 50}
    first, second = (Assignment(salt, layer, arms).arms_of(USERS) for layer in layers)
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1)
    assert chi2_contingency(table).pvalue > NEVER_BY_CHANCE


def test_another_salt_is_another_assignment() -> None:
    arms = {"a": 50, "b": 50}
    one, other = (Assignment(salt, "layer", arms).arms_of(USERS) for salt in ("first", "second"))
    assert 0.47 < (one == other).mean() < 0.53


def test_another_process_with_another_hash_seed_assigns_the_same() -> None:
    program = (
        "from slipway.serving.router.assignment import Assignment\n"
        "a = Assignment('sält', 'films', {'a': 33.3, 'b': 33.3, 'c': 33.4})\n"
        "print(''.join(a.arm_of(str(n)) for n in range(500)), hash('x'))"
    )
    answers = []
    for seed in ("0", "4711"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(run.stdout.split())
    here = Assignment("sält", "films", {"a": 33.3, "b": 33.3, "c": 33.4})
    assert answers[0][0] == answers[1][0] == "".join(here.arm_of(str(n)) for n in range(500))
    assert answers[0][1] != answers[1][1], "the hash seeds did not differ"


@given(before=st.integers(0, 100), after=st.integers(0, 100))
def test_two_arms_move_no_more_users_than_the_weights_differ_by(before: int, after: int) -> None:
    low, high = sorted((before, after))
    small, large = (np.asarray(two(percent).arms_of(USERS[:2000])) for percent in (low, high))
    assert (large[small == 1] == 1).all(), "a user lost the candidate while its weight rose"


@settings(max_examples=200)
@given(before=weights(3), after=weights(3), data=st.data())
def test_each_of_two_candidates_keeps_its_users_while_its_own_weight_does_not_fall(
    before: list[int], after: list[int], data: st.DataObject
) -> None:
    old, new = (Assignment("s", "l", dict(zip("abc", percents, strict=True)), "b") for percents in (before, after))
    bucket = data.draw(st.integers(0, BUCKETS - 1))
    arm = old.arm_at(bucket)
    if arm != "b" and new.arms[arm] >= old.arms[arm]:
        assert new.arm_at(bucket) == arm


@given(count=st.integers(3, 6), data=st.data())
def test_many_candidates_within_their_lanes_keep_their_users(count: int, data: st.DataObject) -> None:
    share = st.integers(0, 100 // count)
    names = [f"c{index}" for index in range(count)]
    pairs = [sorted((data.draw(share), data.draw(share))) for _ in names]
    old, new = (
        Assignment("s", "l", {"stable": 100 - sum(percents)} | dict(zip(names, percents, strict=True)))
        for percents in zip(*pairs, strict=True)
    )
    bucket = data.draw(st.integers(0, BUCKETS - 1))
    if old.arm_at(bucket) != "stable":
        assert new.arm_at(bucket) == old.arm_at(bucket)


@settings(max_examples=300)
@given(count=st.integers(1, 6), data=st.data())
def test_the_line_is_cut_exactly_by_the_weights(count: int, data: st.DataObject) -> None:
    percents = data.draw(weights(count))
    arms = {f"a{index}": percent for index, percent in enumerate(percents)}
    assignment = Assignment("s", "l", arms, data.draw(st.sampled_from(sorted(arms))))
    starts = [*assignment._starts, BUCKETS]
    widths = dict.fromkeys(arms, 0)
    assert starts[0] == 0
    for (start, end), owner in zip(pairwise(starts), assignment._owners, strict=True):
        assert start < end
        widths[owner] += end - start
    for arm, percent in arms.items():
        assert abs(widths[arm] - Fraction(percent) * BUCKETS / 100) <= count
        assert (widths[arm] == 0) == (percent == 0)


@settings(max_examples=50)
@given(users=st.lists(st.text(max_size=30), min_size=1, max_size=30), percents=weights(4))
def test_the_vectorised_version_equals_the_scalar_one(users: list[str], percents: list[int]) -> None:
    assignment = Assignment("s", "l", dict(zip("abcd", percents, strict=True)))
    names = list(assignment.arms)
    assert [names[index] for index in assignment.arms_of(users)] == [assignment.arm_of(user) for user in users]


def test_vectorised_edges_equal_scalar_edges() -> None:
    assignment = Assignment("s", "l", {"a": 40, "b": 33.3, "c": 26.7})
    edges = sorted({0, BUCKETS - 1, *assignment._starts, *(start - 1 for start in assignment._starts if start)})
    names = list(assignment.arms)
    found = assignment.arms_at(np.array(edges, dtype=np.uint64))
    assert [names[index] for index in found] == [assignment.arm_at(edge) for edge in edges]


def test_order_of_writing_does_not_matter_when_stable_is_named() -> None:
    forward = Assignment("s", "l", {"a": 10, "b": 20, "c": 70}, "b")
    backward = Assignment("s", "l", {"c": 70, "b": 20, "a": 10}, "b")
    assert all(forward.arm_of(user) == backward.arm_of(user) for user in USERS[:1000])


def test_a_million_users_take_less_than_two_seconds() -> None:
    users = [str(number) for number in range(1_000_000)]
    started = time.process_time()
    arms = two(25).arms_of(users)
    assert time.process_time() - started < 2
    assert abs(arms.mean() - 0.25) < 0.002


def test_no_users_are_no_buckets() -> None:
    assert buckets_of(hash_prefix("s", "l"), []).shape == (0,)


@pytest.mark.parametrize(
    ("arms", "stable", "says"),
    [
        ({}, None, "at least one arm"),
        ({"a": 50, "b": 49}, None, "sum to 99"),
        ({"a": 150, "b": -50}, None, "from 0 to 100"),
        ({"a": float("nan"), "b": 100}, None, "nan"),
        ({"a": True, "b": 99}, None, "True"),
        ({"a": "50", "b": 50}, None, "'50'"),
        ({"a b": 100}, None, "cannot be named"),
        ({"a\r\nx: y": 100}, None, "cannot be named"),
        ({"": 100}, None, "cannot be named"),
        ({"a": 100}, "b", "none of the arms"),
    ],
)
def test_what_cannot_be_is_refused(arms: dict[str, float], stable: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Assignment("s", "l", arms, stable)
