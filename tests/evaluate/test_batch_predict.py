"""Batch prediction: the answers of serving, for any table, in bounded memory, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.cli.main import run_command_line
from slipway.components.batch_predict.step import BatchPredictRequest, BatchPredictResult, run
from slipway.components.evaluate.step import EvaluateRequest
from slipway.components.evaluate.step import run as evaluate
from slipway.components.progress import Progress
from slipway.components.register.step import RegisterRequest
from slipway.components.register.step import run as register
from slipway.contracts.errors import BundleError, DataError, ServiceError, UsageError
from slipway.models.families import load_model
from slipway.models.ranking import score_pairs

if TYPE_CHECKING:
    from conftest import World


def predict(world: World, directory: Path, table: dict[str, Any], **fields: Any) -> BatchPredictResult:
    pq.write_table(pa.table(table), directory / "input.parquet")
    settings: dict[str, Any] = {
        "bundle": world.models["good"],
        "input": str(directory / "input.parquet"),
        "output": directory / "output.parquet",
        "features": world.features,
    }
    return run(BatchPredictRequest(**(settings | fields)), Progress())


def test_answers_equal_what_evaluation_ranked_item_for_item(world: World, tmp_path: Path) -> None:
    judged = evaluate(
        EvaluateRequest(features=world.features, model=world.models["good"], output=tmp_path / "e"), Progress()
    )
    rankings = pq.read_table(judged.output / "rankings.parquet").to_pandas()
    users = list(dict.fromkeys(rankings["user"]))[::-1]
    result = predict(world, tmp_path, {"user": users})
    answers = pq.read_table(result.output).to_pandas()
    assert answers["user"].drop_duplicates().tolist() == users  # the order of the input
    merged = answers.merge(rankings, on=["user", "rank"], suffixes=("", "_ranked"))
    assert len(merged) == len(rankings) == len(answers)
    assert (merged["item"] == merged["item_ranked"]).all()
    assert (merged["score"] == merged["score_ranked"]).all()


def test_unknown_users_without_features_get_popularity_and_are_counted(world: World, tmp_path: Path) -> None:
    result = predict(world, tmp_path, {"user": ["u1", "nobody"]}, k=3)
    answers = pq.read_table(result.output).to_pandas()
    assert result.fallbacks == {"unknown_user": 1}
    assert answers["fallback"].tolist() == [None, None, None, "unknown_user", "unknown_user", "unknown_user"]
    popularity = load_model(world.models["good"]).popularity
    assert answers["score"].iloc[3] == popularity.max()


def test_seen_items_come_back_when_they_are_asked_for(world: World, tmp_path: Path) -> None:
    train = pq.read_table(world.features / "train.parquet").to_pandas()
    seen = set(train[train["user"] == "u3"]["item"])
    without = pq.read_table(predict(world, tmp_path, {"user": ["u3"]}, k=90).output)
    whole = pq.read_table(predict(world, tmp_path, {"user": ["u3"]}, k=90, exclude_seen=False).output)
    assert not seen & set(without.column("item").to_pylist())
    assert without.num_rows == 90 - len(seen)
    assert whole.num_rows == 90


def test_common_candidates_limit_the_answer(world: World, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("item\ni1\ni2\ni3\nunheard-of\n")
    result = predict(world, tmp_path, {"user": ["u1", "u2"]}, candidates=str(tmp_path / "c.csv"), exclude_seen=False)
    answers = pq.read_table(result.output).to_pandas()
    assert set(answers["item"]) == {"i1", "i2", "i3"}
    assert result.unknown_candidates == 1


def test_own_candidates_are_ranked_for_their_user_only(world: World, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("user,item\nu2,i5\nu1,i1\nu1,i2\nu2,i6\nu2,i7\n")
    result = predict(
        world, tmp_path, {"user": ["u1", "u2", "u3"]}, candidates=str(tmp_path / "c.csv"), exclude_seen=False, k=2
    )
    answers = pq.read_table(result.output).to_pandas()
    assert set(answers[answers["user"] == "u1"]["item"]) == {"i1", "i2"}
    assert set(answers[answers["user"] == "u2"]["item"]) <= {"i5", "i6", "i7"}
    assert answers["rank"].tolist() == [1, 2, 1, 2]
    assert answers.groupby("user")["score"].is_monotonic_decreasing.all()


def test_given_pairs_are_scored_and_unknown_items_have_none(world: World, tmp_path: Path) -> None:
    pairs = {"user": ["u1", "u1", "nobody"], "item": ["i1", "ghost", "i1"]}
    result = predict(world, tmp_path, pairs)
    answers = pq.read_table(result.output).to_pandas()
    assert result.kind == "pairs"
    assert answers["fallback"].tolist() == [None, "unknown_item", "unknown_user"]
    assert np.isnan(answers["score"].iloc[1])
    latest = pq.read_table(world.features / "latest_user_activity.parquet").to_pandas().set_index("user")
    values = latest.loc[["u1"], ["events_7d", "events_30d"]].to_numpy(dtype=np.float32)
    expected = score_pairs(load_model(world.models["good"]), ["u1"], ["i1"], {"user_activity": values})
    assert answers["score"].iloc[0] == expected[0]


def test_csv_in_and_out_gives_the_same_answers_as_parquet(world: World, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("userId\nu1\nu2\n")
    csv = predict(
        world,
        tmp_path,
        {"user": ["u1"]},
        input=str(tmp_path / "users.csv"),
        output=tmp_path / "out.csv",
        user_columns=("user", "userId"),
    )
    parquet = predict(world, tmp_path, {"user": ["u1", "u2"]})
    left, right = pd.read_csv(csv.output, float_precision="round_trip"), pq.read_table(parquet.output).to_pandas()
    assert left["item"].tolist() == right["item"].tolist()
    assert left["score"].tolist() == right["score"].tolist()


def test_a_row_without_a_user_is_named_and_the_old_output_stays(world: World, tmp_path: Path) -> None:
    good = predict(world, tmp_path, {"user": ["u1"]})
    before = good.output.read_bytes()
    with pytest.raises(DataError, match="row 3 has no user"):
        predict(world, tmp_path, {"user": ["u1", "u2", None]})
    assert good.output.read_bytes() == before
    assert not list(tmp_path.glob(".output*"))


@pytest.mark.parametrize(
    ("table", "fields", "error", "problem"),
    [
        ({"user": pa.array([], pa.string())}, {}, DataError, "no rows"),
        ({"customer": ["u1"]}, {}, DataError, "no column 'user'"),
        ({"user": ["u1"]}, {"output": Path("answers.xlsx")}, UsageError, "cannot be written as .xlsx"),
        ({"user": ["u1"]}, {"input": "/nonexistent/users.parquet"}, DataError, "no such file"),
        ({"user": ["u1"]}, {"bundle": Path("/nonexistent")}, BundleError, "no model bundle here"),
    ],
)
def test_bad_input_is_refused_with_what_and_where(
    world: World, tmp_path: Path, table: dict[str, Any], fields: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        predict(world, tmp_path, table, **fields)


def test_an_online_store_that_is_away_ends_the_run_instead_of_changing_the_answers(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.components.batch_predict.features._PATIENCE_SECONDS", 0.0)
    with pytest.raises(ServiceError, match="online store does not answer"):
        predict(world, tmp_path, {"user": ["u1"]}, redis_url="redis://127.0.0.1:1/0")


def test_many_batches_give_the_answers_of_one(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"u{index % 170}" for index in range(1000)]
    whole = pq.read_table(predict(world, tmp_path, {"user": users}, k=4).output)
    monkeypatch.setattr("slipway.components.batch_predict.step._BATCH_BYTES", 90 * 10 * 13)
    small = pq.read_table(predict(world, tmp_path, {"user": users}, k=4).output)
    assert small.equals(whole)


def test_batch_prediction_imports_neither_torch_nor_feast_nor_mlflow() -> None:
    code = (
        "import sys, slipway.components.batch_predict.step, slipway.models.families as f;"
        "[f.load_family(name) for name in ('popularity', 'matrix_factorization')];"
        "print(sorted({'torch', 'feast', 'mlflow', 'kfp', 'kserve'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: films
data:
  interactions: {source: none.parquet, columns: {user: userId, item: movieId, timestamp: t}}
"""


@pytest.fixture(scope="module")
def project(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two registered versions."""
    directory = tmp_path_factory.mktemp("cli")
    (directory / "slipway.yaml").write_text(PROJECT)
    for name in ("poor", "good"):
        judged = evaluate(
            EvaluateRequest(features=world.features, model=world.models[name], output=directory / f"e-{name}"),
            Progress(),
        )
        register(
            RegisterRequest(
                name="films",
                model=world.models[name],
                evaluation=judged.output,
                features=world.features,
                output=directory / "registration",
                project_directory=directory,
            ),
            Progress(),
        )
    return directory


@pytest.mark.integration
def test_the_command_predicts_from_a_registered_version_by_the_projects_column_names(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users.csv").write_text("userId\nu1\nu2\n")
    target = tmp_path / "top.parquet"
    arguments = ["predict", "-f", str(project), "--input", str(tmp_path / "users.csv"), "--output", str(target)]
    assert run_command_line([*arguments, "--model", "films@challenger", "-k", "5", "-o", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["model"], summary["inputs"], summary["rows"]) == ("films/2", 2, 10)
    assert "features artifact" in summary["features"]
    assert pq.read_table(target).num_rows == 10
    assert run_command_line([*arguments, "--model", "films@champion"]) == 2
    assert "It has: 1, 2 (challenger)" in capsys.readouterr().err


@pytest.mark.integration
def test_models_are_listed_shown_compared_and_have_a_card(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> str:
        assert run_command_line(["models", *arguments, "-f", str(project)]) == 0
        return capsys.readouterr().out

    listed = json.loads(command("list", "-o", "json"))
    assert [(row["version"], row["aliases"]) for row in listed] == [("1", None), ("2", "challenger")]
    assert listed[1]["ndcg@10"] > listed[0]["ndcg@10"]
    shown = command("show", "films/2")
    for text in ("full-rank over 90 items", "ndcg@10", "matrix_factorization", "user_activity", "minimum_users"):
        assert text in shown
    changed = {row["field"]: row["change"] for row in json.loads(command("diff", "1", "challenger", "-o", "json"))}
    assert changed["metric ndcg@10"] > 0
    assert command("card", "films@challenger").startswith("# films")
