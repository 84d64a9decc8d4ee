from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.components.featurize.step import FeaturizeRequest, run
from slipway.components.progress import Progress
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import ArtifactError, DataError, UsageError
from slipway.contracts.features import ViewSchema
from slipway.contracts.split import FeaturesSpec, SplitSpec

DAY = 86_400_000_000
START = 1_600_000_000_000_000
Row = tuple[str, str, int, float | None]
WriteDataset = Callable[..., Path]

LAST_SHARE = SplitSpec(method="last_share", share=0.2, minimum_users=1)
ALL_VIEWS = FeaturesSpec(views=("user_activity", "item_popularity", "interaction"))


def featurize(dataset: Path, name: str = "features", **fields: Any) -> Path:
    output = dataset.parent / name
    run(FeaturizeRequest(dataset=dataset, output=output, **({"split": LAST_SHARE} | fields)), Progress())
    return output


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    content = pq.read_table(folder / f"{name}.parquet")
    for position, field in enumerate(content.schema):
        if pa.types.is_timestamp(field.type):
            content = content.set_column(position, field.name, content.column(position).cast(pa.int64()))
    return content.to_pylist()


def views(folder: Path) -> dict[str, ViewSchema]:
    return {view["name"]: ViewSchema.model_validate(view) for view in json.loads((folder / "views.json").read_text())}


def past(
    events: Iterable[dict[str, Any]], key: dict[str, str], moment: int, window: int | None
) -> list[dict[str, Any]]:
    return [
        event
        for event in events
        if all(event[name] == value for name, value in key.items())
        and event["timestamp"] < moment
        and (window is None or event["timestamp"] >= moment - window)
    ]


def expected(events: list[dict[str, Any]], key: dict[str, str], moment: int) -> dict[str, Any]:
    """The same features by loops over all events."""
    everything = past(events, key, moment, None)
    if not everything:
        return {}
    times = [event["timestamp"] for event in everything]
    values: dict[str, Any] = {"event_time": max(times), "days_since_last_event": (moment - max(times)) / DAY}
    if list(key) == ["user"]:
        values["active_days"] = (max(times) - min(times)) / DAY
    if list(key) == ["item"]:
        values["days_since_first_event"] = (moment - min(times)) / DAY
    for suffix, window in (("_7d", 7 * DAY), ("_30d", 30 * DAY), ("", None)):
        found = past(events, key, moment, window)
        values[f"events{suffix}"] = len(found)
        ratings = [event["rating"] for event in found if event["rating"] is not None]
        if len(key) == 1:
            other = "item" if "user" in key else "user"
            values[f"distinct_{other}s{suffix}"] = len({event[other] for event in found})
            values[f"mean_rating{suffix}"] = sum(ratings) / len(ratings) if ratings else None
    return values


def assert_same(found: dict[str, Any], wanted: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
    for name, value in found.items():
        if name in ignore:
            continue
        if wanted.get(name) is None:
            assert value is None, name
        else:
            assert value == pytest.approx(wanted[name], rel=1e-6), name


def test_label_time_features_equal_a_loop_over_what_happened_strictly_before(
    write_dataset: WriteDataset, rows: list[Row]
) -> None:
    folder = featurize(write_dataset(rows), features=ALL_VIEWS)
    train = table(folder, "train")
    for view, keys in (("user_activity", ["user"]), ("item_popularity", ["item"]), ("interaction", ["user", "item"])):
        found = table(folder, f"train_{view}")
        assert len(found) == len(train), "rows in, rows out"
        for event, values in zip(train, found, strict=True):
            assert_same(values, expected(train, {key: event[key] for key in keys}, event["timestamp"]))
    assert "interaction" not in views(folder)
    assert not (folder / "latest_interaction.parquet").exists()


@pytest.mark.parametrize("method", ["last_share", "leave_last_out", "time", "given"])
def test_latest_features_are_as_of_each_entitys_moment_from_training_data_only(
    write_dataset: WriteDataset, rows: list[Row], method: Any
) -> None:
    spec = SplitSpec(method=method, column="split" if method == "given" else None, minimum_users=1)
    more = {"split": ["test" if row % 5 == 4 else "train" for row in range(len(rows))]} if method == "given" else {}
    folder = featurize(write_dataset(rows, **more), split=spec)
    train, test = table(folder, "train"), table(folder, "test")
    cut = read_manifest(folder, kind="features").metadata["cut"]
    end = max(event["timestamp"] for event in train) + 1 if cut is None else cut
    users = {}
    for user in {event["user"] for event in train}:
        own = [event["timestamp"] for event in test if event["user"] == user]
        users[user] = min(own) if own and cut is None else end
    wanted = {"user": users, "item": {event["item"]: end for event in train}}
    for view, entity in (("user_activity", "user"), ("item_popularity", "item")):
        found = table(folder, f"latest_{view}")
        ids = [row[entity] for row in found]
        known = [one for one, moment in wanted[entity].items() if past(train, {entity: one}, moment, None)]
        assert ids == sorted(known)
        for row in found:
            moment = wanted[entity][row[entity]]
            assert row["as_of"] == moment
            assert_same(row, expected(train, {entity: row[entity]}, moment), ignore=(entity, "as_of"))


def test_train_and_test_divide_the_rows_and_test_says_what_cannot_be_found(write_dataset: WriteDataset) -> None:
    rows: list[Row] = [
        ("ann", "a", START, 4.0), ("ann", "b", START + 1, 3.0), ("ann", "a", START + 2, 5.0),
        ("ann", "z", START + 3, 1.0), ("bo", "a", START, 2.0), ("bo", "b", START, 2.0),
    ]  # fmt: skip
    folder = featurize(write_dataset(rows), split=SplitSpec(method="last_share", share=0.5, minimum_users=1))
    train, test = table(folder, "train"), table(folder, "test")
    assert [(row["user"], row["item"]) for row in train] == [("ann", "a"), ("ann", "b"), ("bo", "a")]
    assert [(row["item"], row["repeated"], row["unknown_item"]) for row in test] == [
        ("a", True, False),
        ("z", False, True),
        ("b", False, False),
    ]
    assert {row["weight"] for row in train} == {1.0}
    counts = read_manifest(folder, kind="features").metadata["counts"]
    assert counts["evaluable_users"] == 1
    assert (counts["test_repeated"], counts["test_unknown_item"], counts["test_unknown_user"]) == (1, 1, 0)


def test_items_are_those_of_train_in_order_with_their_attributes(write_dataset: WriteDataset) -> None:
    rows: list[Row] = [("ann", item, START + n, None) for n, item in enumerate(["i2", "i10", "é", "z"])]
    attributes = pa.table({"item": ["i2", "i10", "never"], "year": [1999, None, 2000]})
    folder = featurize(write_dataset(rows, attributes=attributes), split=SplitSpec(method="leave_last_out"))
    assert table(folder, "items") == [
        {"item": "i10", "year": None},
        {"item": "i2", "year": 1999},
        {"item": "é", "year": None},
    ]


def test_the_same_rows_give_the_same_bytes_whatever_their_order_and_file(
    write_dataset: WriteDataset, rows: list[Row]
) -> None:
    one = featurize(write_dataset(rows), features=ALL_VIEWS)
    two = featurize(write_dataset(rows[::-1], name="reversed"), "again", features=ALL_VIEWS)
    names = sorted(file.name for file in one.iterdir() if file.suffix in (".parquet", ".json", ".md"))
    assert len(names) == 11
    for name in set(names) - {"manifest.json"}:
        assert hashlib.sha256((one / name).read_bytes()).digest() == hashlib.sha256((two / name).read_bytes()).digest()
    again = featurize(one.parent / "dataset", "third", features=ALL_VIEWS)
    assert read_manifest(again, verify=True).fingerprint == read_manifest(one).fingerprint
    parent = read_manifest(one).parents[0]
    assert parent.fingerprint == read_manifest(one.parent / "dataset").fingerprint


def test_after_the_time_to_live_a_row_is_null_at_label_time_and_latest(write_dataset: WriteDataset) -> None:
    rows: list[Row] = [
        ("ann", f"i{n}", START + offset, 4.0) for n, offset in enumerate([0, 2 * DAY, 2 * DAY + 1, 9 * DAY, 20 * DAY])
    ]
    features = FeaturesSpec(views=("user_activity",), time_to_live=timedelta(days=3))
    folder = featurize(write_dataset(rows), features=features)
    assert [row["events"] for row in table(folder, "train_user_activity")] == [None, 1, 2, None]
    (latest,) = table(folder, "latest_user_activity")
    assert latest["event_time"] == START + 9 * DAY
    assert latest["events"] is None
    assert views(folder)["user_activity"].time_to_live == 3 * 86400


def test_an_own_view_of_the_project_reads_attributes_of_items(write_dataset: WriteDataset, tmp_path: Path) -> None:
    (tmp_path / "taste_views.py").write_text(
        "from slipway.feature_store.views import Feature, FeatureView, suffix\n"
        "def taste(windows):\n"
        "    return FeatureView('taste', 'user', tuple(\n"
        "        Feature(f'mean_year{suffix(w)}', lambda line, w=w: line.mean('item_year', w)) for w in windows\n"
        "    ), attributes=('year',))\n"
    )
    rows: list[Row] = [("ann", item, START + n * DAY, None) for n, item in enumerate(["a", "b", "c", "d", "e"])]
    attributes = pa.table({"item": ["a", "b", "c"], "year": [1990, 2000, None]})
    spec = FeaturesSpec(views=("taste_views:taste",), windows=(timedelta(days=2), timedelta(hours=36)))
    folder = featurize(write_dataset(rows, attributes=attributes), features=spec, project_directory=tmp_path)
    assert [row["mean_year_2d"] for row in table(folder, "train_taste")] == [None, 1990, 1995, 2000]
    assert [row["mean_year_36h"] for row in table(folder, "train_taste")] == [None, 1990, 2000, None]
    assert views(folder)["taste"].entity == "user"
    with pytest.raises(UsageError, match="year"):
        featurize(write_dataset(rows, name="plain"), "other", features=spec, project_directory=tmp_path)


def test_wrong_views_are_refused_with_a_remedy(write_dataset: WriteDataset, rows: list[Row], tmp_path: Path) -> None:
    dataset = write_dataset(rows)
    (tmp_path / "odd_views.py").write_text("def raises(windows):\n    raise ValueError('no')\ndef none(windows): ...\n")
    for name, match in (
        ("user_activty", "Did you mean 'user_activity'"),
        ("no_such_module:view", "no_such_module"),
        ("odd_views:absent", "absent"),
        ("odd_views:raises", "ValueError: no"),
        ("odd_views:none", "does not give a view"),
    ):
        with pytest.raises(UsageError, match=match):
            featurize(dataset, features=FeaturesSpec(views=(name,)), project_directory=tmp_path)
    assert not (tmp_path / "features").exists()


def test_wrong_datasets_are_refused(write_dataset: WriteDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no interactions"):
        featurize(write_dataset([]))
    with pytest.raises(ArtifactError, match="no artifact"):
        featurize(tmp_path / "nothing")
    broken = write_dataset([("a", "b", START, 1.0)], name="broken")
    (broken / "interactions.parquet").write_bytes(b"not parquet")
    with pytest.raises(ArtifactError, match="cannot be read"):
        featurize(broken)


def test_few_evaluable_users_are_a_warning_with_advice(write_dataset: WriteDataset, rows: list[Row]) -> None:
    spec = SplitSpec(method="time", cut=datetime(2020, 11, 1, tzinfo=UTC), minimum_users=50)
    dataset = write_dataset(rows)
    result = run(FeaturizeRequest(dataset=dataset, output=dataset.parent / "features", split=spec), Progress())
    assert "last_share" in result.warnings[0]
    assert result.metrics["evaluable_users"] < 50
