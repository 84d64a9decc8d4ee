"""The id index finds what it holds, nothing else, and survives its array form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.contracts.errors import DataError
from slipway.models.ids import IdIndex
from slipway.models.seen import SeenItems

identifiers = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12)


@given(st.sets(identifiers, max_size=40), st.lists(st.text(max_size=14), max_size=40))
@settings(max_examples=150, deadline=None)
def test_every_id_is_found_at_its_row_and_no_other_id_is(known: set[str], asked: list[str]) -> None:
    index = IdIndex.from_strings(known)
    ordered = sorted(known, key=lambda identifier: identifier.encode("utf-8", "surrogatepass"))
    assert index.ids(np.arange(len(index))) == ordered
    assert index.rows(ordered).tolist() == list(range(len(known)))
    places = {identifier: row for row, identifier in enumerate(ordered)}
    assert index.rows(asked).tolist() == [places.get(identifier, -1) for identifier in asked]


@given(st.sets(identifiers, max_size=20))
@settings(max_examples=50, deadline=None)
def test_an_index_restored_from_its_array_is_the_same(known: set[str]) -> None:
    index = IdIndex.from_strings(known)
    restored = IdIndex.from_array(index.to_array())
    assert len(restored) == len(known)
    assert restored.rows(sorted(known)).tolist() == index.rows(sorted(known)).tolist()


def test_ids_that_a_fixed_width_would_confuse_are_told_apart() -> None:
    index = IdIndex.from_strings(["a", "ab", "\ud800", "é"])
    assert index.rows(["a\0", "ab\0", "abc", "", "é"]).tolist() == [-1, -1, -1, -1, index.rows(["é"])[0]]
    assert index.ids(index.rows(["\ud800"])) == ["\ud800"]


@pytest.mark.parametrize("identifier", ["", "a\0b", "x" * 1025])
def test_what_cannot_be_an_id_is_refused(identifier: str) -> None:
    with pytest.raises(DataError, match="cannot be an id"):
        IdIndex.from_strings(["fine", identifier])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=60), st.lists(st.integers(-1, 6), max_size=9))
@settings(max_examples=100, deadline=None)
def test_seen_pairs_are_those_of_the_interactions(pairs: list[tuple[int, int]], users: list[int]) -> None:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    seen = SeenItems.from_pairs(array[:, 0], array[:, 1], n_users=7)
    expected = {user: sorted({item for owner, item in pairs if owner == user}) for user in range(-1, 7)}
    assert [seen.of(user).tolist() for user in users] == [expected[user] for user in users]
    positions, items = seen.pairs(np.array(users, dtype=np.int64))
    assert list(zip(positions.tolist(), items.tolist(), strict=True)) == [
        (position, item) for position, user in enumerate(users) for item in expected[user]
    ]
