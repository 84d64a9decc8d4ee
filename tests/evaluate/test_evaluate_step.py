"""The evaluate step on a small world: what it measures, compares, slices, gates and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.components.evaluate.step import EvaluateRequest, EvaluateResult, run
from slipway.components.progress import Progress
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import DataError, UsageError
from slipway.contracts.evaluation import EvaluationSpec, GateSpec
from slipway.contracts.split import SplitSpec
from slipway.models.families import load_model
from slipway.models.ranking import recommend

if TYPE_CHECKING:
    from conftest import World

SPLIT = SplitSpec(method="last_share", share=0.2, minimum_users=100)


def evaluate(world: World, output: Path, model: str = "good", **fields: Any) -> EvaluateResult:
    settings: dict[str, Any] = {"split": SPLIT, "dataset": world.dataset} | fields
    return run(
        EvaluateRequest(features=world.features, model=world.models[model], output=output, **settings), Progress()
    )


def content(output: Path, name: str = "metrics.json") -> Any:
    return json.loads((output / name).read_text())


def test_a_model_that_learnt_the_tastes_beats_popularity_and_says_by_which_protocol(
    world: World, tmp_path: Path
) -> None:
    result = evaluate(world, tmp_path / "e", evaluation=EvaluationSpec(k=(5, 10)))
    metrics = content(result.output)
    for name in ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "recall@10", "mrr@10", "mrr", "auc", "coverage@10"):
        assert metrics["metrics"][name]["value"] == pytest.approx(result.metrics[name])
        assert "full-rank over 90 items; seen items excluded" in metrics["metrics"][name]["protocol"]
    ndcg = metrics["metrics"]["ndcg@10"]
    assert ndcg["low"] < ndcg["value"] < ndcg["high"]
    assert metrics["against"]["popularity"]["ndcg@10"]["change_low"] > 0
    assert (
        metrics["metrics"]["popularity_percentile@10"]["value"]
        < (metrics["against"]["popularity"]["popularity_percentile@10"]["reference"])
    )
    assert metrics["protocol"]["users"] == 150
    assert result.passed


def test_rankings_are_what_serving_answers_and_no_list_holds_a_seen_item(world: World, tmp_path: Path) -> None:
    output = evaluate(world, tmp_path / "e").output
    rankings = pq.read_table(output / "rankings.parquet").to_pandas()
    model = load_model(world.models["good"])
    latest = pq.read_table(world.features / "latest_user_activity.parquet").to_pandas().set_index("user")
    users = sorted(rankings["user"].unique())
    values = latest.loc[users, ["events_7d", "events_30d"]].to_numpy(dtype=np.float32)
    for start in range(0, 150, 7):  # other batches than the step's
        part = users[start : start + 7]
        answer = recommend(model, part, k=10, features={"user_activity": values[start : start + 7]})
        for user, items, scores in zip(part, answer.items, answer.scores, strict=True):
            mine = rankings[rankings["user"] == user].sort_values("rank")
            assert mine["item"].tolist() == items
            assert mine["score"].tolist() == scores
    train = pq.read_table(world.features / "train.parquet").to_pandas()
    assert rankings.merge(train, on=["user", "item"]).empty


def test_metrics_equal_those_computed_plainly_from_the_rankings(world: World, tmp_path: Path) -> None:
    result = evaluate(world, tmp_path / "e")
    rankings = pq.read_table(result.output / "rankings.parquet").to_pandas()
    test = pq.read_table(world.features / "test.parquet").to_pandas()
    relevant = test.groupby("user")["item"].agg(set)
    hits, gains, recalls = [], [], []
    for user, mine in rankings.sort_values("rank").groupby("user"):
        hit = np.array([item in relevant[user] for item in mine["item"]])
        hits.append(hit.any())
        recalls.append(hit.sum() / len(relevant[user]))
        discounts = 1 / np.log2(np.arange(2, 12))
        gains.append((hit * discounts).sum() / discounts[: len(relevant[user])].sum())
    assert result.metrics["hr@10"] == pytest.approx(np.mean(hits))
    assert result.metrics["recall@10"] == pytest.approx(np.mean(recalls))
    assert result.metrics["ndcg@10"] == pytest.approx(np.mean(gains))


def test_the_same_request_gives_the_same_artifact_byte_for_byte(world: World, tmp_path: Path) -> None:
    first, second = (evaluate(world, tmp_path / name) for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint
    assert read_manifest(first.output, verify=True) == read_manifest(second.output, verify=True)


def test_popularity_against_itself_changes_nothing(world: World, tmp_path: Path) -> None:
    metrics = content(evaluate(world, tmp_path / "e", "poor").output)
    change = metrics["against"]["popularity"]["ndcg@10"]
    assert (change["change"], change["change_low"], change["change_high"]) == (0, 0, 0)


def test_a_gate_against_the_champion_refuses_a_worse_model_and_passes_without_a_champion(
    world: World, tmp_path: Path
) -> None:
    gates = (GateSpec(metric="ndcg@10", against="champion", minimum_change=-0.02),)
    alone = evaluate(world, tmp_path / "alone", "poor", gates=gates)
    assert alone.passed
    assert content(alone.output, "gates.json")["gates"][1]["why"] == "there is no champion yet"
    worse = evaluate(world, tmp_path / "worse", "poor", gates=gates, champion=world.models["good"])
    assert not worse.passed
    assert "against champion" in worse.failed_gates[0]
    better = evaluate(world, tmp_path / "better", "good", gates=gates, champion=world.models["poor"])
    assert better.passed
    assert content(better.output)["against"]["champion"]["ndcg@10"]["change_low"] > 0


def test_too_few_users_are_warned_of_and_refused_by_a_gate(world: World, tmp_path: Path) -> None:
    result = evaluate(world, tmp_path / "e", split=SplitSpec(method="leave_last_out", minimum_users=1000))
    assert not result.passed
    assert "150 users were evaluated, 1,000 are needed" in result.failed_gates[0]
    assert "only 150 users" in result.warnings[0]
    assert "Warning" in (result.output / "report.md").read_text()


def test_slices_of_users_items_and_columns_are_reported_and_gated(world: World, tmp_path: Path) -> None:
    result = evaluate(
        world,
        tmp_path / "e",
        evaluation=EvaluationSpec(slices=("user_activity", "item_popularity", "genres", "age")),
        gates=(
            GateSpec(metric="hr@10", slice="genres=War", minimum=0.0),
            GateSpec(metric="hr@10", slice="user_activity=low", minimum=1.01),
            GateSpec(metric="hr@10", slice="genres=Western", minimum=0.0),
        ),
    )
    slices = content(result.output)["slices"]
    assert {"user_activity=low", "user_activity=mid", "user_activity=high"} <= set(slices)
    assert {"item_popularity=head", "item_popularity=tail", "genres=War", "genres=(none)", "age=low"} <= set(slices)
    assert sum(slices[f"user_activity={value}"]["users"] for value in ("low", "mid", "high")) == 150
    assert slices["genres=Drama"]["metrics"] == slices["genres=War"]["metrics"]
    assert (
        slices["item_popularity=head"]["metrics"]["recall@10"]["value"]
        > (slices["item_popularity=tail"]["metrics"]["recall@10"]["value"])
    )
    passed = [gate["passed"] for gate in content(result.output, "gates.json")["gates"]]
    assert passed == [True, True, False, False]
    assert "nobody belongs to it" in result.failed_gates[1]


def test_a_slice_by_an_unknown_column_names_the_columns_there_are(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table of users or items has a column 'genre'") as problem:
        evaluate(world, tmp_path / "e", evaluation=EvaluationSpec(slices=("genre",)))
    assert "age, genres" in str(problem.value)


def test_given_candidates_are_ranked_instead_of_the_catalogue_and_named_in_the_protocol(
    world: World, tmp_path: Path
) -> None:
    generator = np.random.default_rng(2)
    pairs = {"user": [], "item": []}
    for user in range(150):
        for item in generator.choice(90, size=30, replace=False):
            pairs["user"].append(f"u{user}")
            pairs["item"].append(f"i{item}")
    pq.write_table(pa.table(pairs), tmp_path / "candidates.parquet")
    whole = evaluate(world, tmp_path / "whole")
    sampled = evaluate(
        world,
        tmp_path / "sampled",
        evaluation=EvaluationSpec(candidates="candidates.parquet"),
        project_directory=tmp_path,
    )
    assert "candidates from candidates.parquet" in content(sampled.output)["metrics"]["hr@10"]["protocol"]
    assert sampled.metrics["hr@10"] > whole.metrics["hr@10"]
    assert sampled.metrics["auc"] == pytest.approx(whole.metrics["auc"], abs=0.05)


def test_candidates_that_are_the_whole_catalogue_give_the_metrics_of_the_whole_catalogue(
    world: World, tmp_path: Path
) -> None:
    pairs = [(f"u{user}", f"i{item}") for user in range(150) for item in range(90)]
    pq.write_table(pa.table({"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}), tmp_path / "all.parquet")
    whole = evaluate(world, tmp_path / "whole")
    given = evaluate(
        world, tmp_path / "given", evaluation=EvaluationSpec(candidates="all.parquet"), project_directory=tmp_path
    )
    assert given.metrics == pytest.approx(whole.metrics, abs=1e-9)
    lists = [pq.read_table(folder / "rankings.parquet") for folder in (whole.output, given.output)]
    assert lists[0].equals(lists[1])
    slices = [content(folder)["slices"]["item_popularity=mid"]["metrics"] for folder in (whole.output, given.output)]
    assert slices[0]["auc"]["value"] == pytest.approx(slices[1]["auc"]["value"])


def test_candidates_with_ids_of_another_world_are_refused(world: World, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": ["x"], "item": ["y"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="name no further item"):
        evaluate(world, tmp_path / "e", evaluation=EvaluationSpec(candidates="c.parquet"), project_directory=tmp_path)


def test_a_minimum_rating_makes_lower_held_out_ratings_irrelevant(world: World, tmp_path: Path) -> None:
    every = content(evaluate(world, tmp_path / "a").output)["protocol"]
    liked = content(evaluate(world, tmp_path / "b", evaluation=EvaluationSpec(minimum_rating=5)).output)["protocol"]
    assert liked["relevant"] == "rating >= 5"
    assert 0 < liked["relevant_items"] < every["relevant_items"]


def test_shifted_features_change_the_rankings(world: World, tmp_path: Path) -> None:
    """A model that reads features must be evaluated with them, or serving could not be compared with it."""
    model = load_model(world.models["good"])
    users = [f"u{user}" for user in range(20)]
    plain, shifted = (
        recommend(model, users, k=10, features={"user_activity": np.full((20, 2), value, dtype=np.float32)})
        for value in (5.0, 500.0)
    )
    assert plain.scores != shifted.scores


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"metric": "ndgc@10", "minimum": 0.1}, "unknown metric 'ndgc@10'"),
        ({"metric": "ndcg", "minimum": 0.1}, "unknown metric 'ndcg'"),
        ({"metric": "auc@10", "minimum": 0.1}, "unknown metric 'auc@10'"),
        ({"metric": "auc"}, "give a `minimum`"),
        ({"metric": "auc", "against": "champion"}, "belong together"),
        ({"metric": "coverage@10", "minimum": 0.1, "slice": "age=low"}, "has no slice"),
        ({"metric": "auc", "minimum": float("nan")}, "finite"),
    ],
)
def test_a_gate_that_can_never_be_checked_is_refused_when_it_is_read(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        GateSpec(**fields)
