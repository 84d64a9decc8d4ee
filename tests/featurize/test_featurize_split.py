from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.components.featurize.split import Split, split_interactions
from slipway.contracts.errors import DataError, UsageError
from slipway.contracts.split import SplitSpec


def split(spec: SplitSpec, rows: list[tuple[str, int, str]], **more: list[str]) -> Split:
    users, times, items = zip(*sorted(rows), strict=True)
    table = pa.table({"user": users, "item": items, **more})
    return split_interactions(spec, table, np.array(times, dtype=np.int64))


HISTORIES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.lists(st.integers(0, 5), min_size=1, max_size=30), min_size=1
)


@settings(deadline=None)
@given(HISTORIES, st.floats(0.01, 0.99))
def test_last_share_holds_out_the_last_of_each_user_and_never_all(
    histories: dict[str, list[int]], share: float
) -> None:
    rows = sorted((user, time, f"i{n:02}") for user, times in histories.items() for n, time in enumerate(times))
    spec = SplitSpec(method="last_share", share=share)
    if all(len(times) == 1 for times in histories.values()):
        with pytest.raises(DataError):
            split(spec, rows)
        return
    held = split(spec, rows).held_out
    for user, times in histories.items():
        mine = [bool(held[index]) for index, row in enumerate(rows) if row[0] == user]
        assert mine == sorted(mine), "held-out rows come last"
        expected = 0 if len(times) == 1 else max(int(len(times) * share + 1e-9), 1)
        assert sum(mine) == expected
        assert not all(mine)


def test_a_fifth_of_ten_is_two_and_of_three_is_one() -> None:
    rows = [("a", n, "i") for n in range(10)] + [("b", n, "i") for n in range(3)] + [("c", 0, "i")]
    held = split(SplitSpec(method="last_share", share=0.2), rows).held_out
    assert held.tolist() == [False] * 8 + [True] * 2 + [False] * 2 + [True] + [False]


def test_ties_within_a_user_are_cut_in_the_order_of_items() -> None:
    rows = [("a", 5, item) for item in ("i3", "i1", "i4", "i2")]
    assert split(SplitSpec(method="leave_last_out"), rows).held_out.tolist() == [False, False, False, True]
    assert split(SplitSpec(method="last_share", share=0.5), rows).held_out.tolist() == [False, False, True, True]


def test_time_holds_out_everything_from_the_cut_on() -> None:
    rows = [("a", 1, "i"), ("a", 2, "i"), ("b", 2, "i"), ("b", 3, "i")]
    spec = SplitSpec(method="time", cut=datetime.fromtimestamp(2e-6, UTC))
    assert split(spec, rows).held_out.tolist() == [False, True, True, True]
    naive = SplitSpec(method="time", cut=datetime(1970, 1, 1, 0, 0, 0, 3))
    assert split(naive, rows).held_out.tolist() == [False, False, False, True]
    assert split(naive, rows).cut == 3


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_a_share_of_time_never_divides_a_moment(times: list[int], share: float) -> None:
    rows = [("a", time, f"i{n:02}") for n, time in enumerate(times)]
    spec = SplitSpec(method="time", share=share)
    try:
        result = split(spec, rows)
    except DataError:
        return
    ordered = np.sort(times)
    assert set(ordered[result.held_out]).isdisjoint(ordered[~result.held_out])
    assert result.held_out.sum() >= int(len(times) * share), "ties at the cut only add to it"


def test_a_given_split_is_read_from_its_column() -> None:
    rows = [("a", n, "i") for n in range(3)]
    spec = SplitSpec(method="given", column="part")
    assert split(spec, rows, part=["train", " Test", "train"]).held_out.tolist() == [False, True, False]
    assert split(spec, rows, split=["train", "train", "test"]).held_out.tolist() == [False, False, True]
    with pytest.raises(DataError, match="validation"):
        split(spec, rows, part=["train", "test", "validation"])
    with pytest.raises(UsageError, match="part"):
        split(spec, rows)


def test_a_split_that_leaves_nothing_says_so() -> None:
    rows = [("a", 1, "i"), ("b", 2, "i")]
    for year, match in ((1960, "train"), (2100, "held out")):
        with pytest.raises(DataError, match=match):
            split(SplitSpec(method="time", cut=datetime(year, 1, 1, tzinfo=UTC)), rows)
    with pytest.raises(DataError, match="held out"):
        split(SplitSpec(method="leave_last_out"), rows)
