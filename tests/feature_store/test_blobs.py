from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.feature_store.blobs import pack, unpack, unpack_values
from slipway.feature_store.columns import ARROW_TYPES, columns_of

VALUES = {
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[ViewSchema, list[dict[str, Any]]]:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=20))
    features = tuple(FeatureSchema(name=f"f{index}", dtype=kind) for index, kind in enumerate(kinds))
    view = ViewSchema(name="view", entity="user", features=features)
    row = st.fixed_dictionaries({feature.name: st.none() | VALUES[feature.dtype] for feature in features})
    return view, draw(st.lists(row, min_size=1, max_size=8))


def packed(view: ViewSchema, rows: list[dict[str, Any]]) -> list[bytes]:
    columns = {
        feature.name: pa.array([row[feature.name] for row in rows], ARROW_TYPES[feature.dtype])
        for feature in view.features
    }
    times = np.arange(len(rows), dtype=np.int64) - 1
    return pack(view, columns_of(view, pa.table(columns)), event_time=times, as_of=times + 7, written_at=99)


def same(left: Any, right: Any) -> bool:
    return left == right or (left != left and right != right)


@settings(max_examples=60, deadline=None)
@given(tables())
def test_every_value_comes_back_with_its_type_and_null_is_not_nan(
    drawn: tuple[ViewSchema, list[dict[str, Any]]],
) -> None:
    view, rows = drawn
    blobs = packed(view, rows)
    for row, found in zip(rows, unpack_values(view, blobs), strict=True):
        assert found is not None
        assert all(same(row[name], found[name]) and type(row[name]) is type(found[name]) for name in row)
    unpacked = unpack(view, blobs)
    assert unpacked.valid.all()
    assert unpacked.event_time.tolist() == [index - 1 for index in range(len(rows))]
    assert unpacked.as_of.tolist() == [index + 6 for index in range(len(rows))]
    assert set(unpacked.written_at.tolist()) == {99}
    with np.errstate(over="ignore"):
        expected = (
            np.array(
                [[np.nan if row[f.name] is None else row[f.name] for f in view.numeric] for row in rows],
                dtype=np.float64,
            )
            .astype(np.float32)
            .reshape(len(rows), len(view.numeric))
        )
    np.testing.assert_array_equal(unpacked.values, expected)


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_an_altered_blob_counts_as_corrupted_and_spoils_no_other(
    drawn: tuple[ViewSchema, list[dict[str, Any]]], data: st.DataObject
) -> None:
    view, rows = drawn
    blobs: list[bytes | None] = list(packed(view, rows))
    victim = data.draw(st.integers(0, len(blobs) - 1))
    blob = blobs[victim]
    assert blob is not None
    place = data.draw(st.integers(0, len(blob) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "append", "noise"]))
    if change == "flip":
        damaged = blob[:place] + bytes([blob[place] ^ data.draw(st.integers(1, 255))]) + blob[place + 1 :]
    elif change == "cut":
        damaged = blob[:place]
    elif change == "append":
        damaged = blob + b"\0"
    else:
        damaged = data.draw(st.binary(max_size=200))
    blobs[victim] = damaged
    unpacked = unpack(view, [*blobs, None])
    assert unpacked.corrupted == 1
    assert not unpacked.valid[victim]
    assert unpacked.valid.sum() == len(rows) - 1
    assert np.isnan(unpacked.values[victim]).all()
    assert unpack_values(view, blobs)[victim] is None


def test_a_blob_of_another_schema_is_not_read() -> None:
    old = ViewSchema(name="view", entity="user", features=(FeatureSchema(name="a"),))
    new = ViewSchema(name="view", entity="user", features=(FeatureSchema(name="b"),))
    unpacked = unpack(new, packed(old, [{"a": 1.0}]))
    assert not unpacked.valid.any()
    assert unpacked.corrupted == 1


def test_fifty_features_take_less_than_260_bytes() -> None:
    view = ViewSchema(name="v", entity="item", features=tuple(FeatureSchema(name=f"f{index}") for index in range(50)))
    (blob,) = packed(view, [dict.fromkeys((feature.name for feature in view.features), 1.5)])
    assert len(blob) < 260
