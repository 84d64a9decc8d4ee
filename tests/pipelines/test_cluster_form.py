"""The very pipelines that a cluster gets, run here: sources copied, the version that serves, the message at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_project import write_small_project
from test_notify import webhook

from slipway.components.evaluate.dashboard import confusion_matrix, render
from slipway.contracts.project import Project, load_project
from slipway.contracts.project.schedules import PipelineName
from slipway.models.registry import CHALLENGER, CHAMPION, registry_for
from slipway.pipelines.kubernetes.settings import BUILDERS, cluster_settings
from slipway.pipelines.runners.job import Job, RunReport
from slipway.pipelines.runners.local import run_job

PARTS = """\
kubernetes:
  project: {{mount: {folder}}}
  retry: {{retries: 0}}
  notification: {{webhook: {{secret: chat, key: url}}}}
retraining: {{window: 10000d, tolerance: 0.5}}
batch_prediction: {{input: people.csv, k: 3}}
"""

Runner = Callable[[PipelineName], RunReport]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = write_small_project(tmp_path_factory.mktemp("cluster"), people=120, things=40, events=2000)
    with (folder / "slipway.yaml").open("a") as handle:
        handle.write(PARTS.format(folder=folder))
    (folder / "people.csv").write_text("person\nperson-0001\nperson-0002\nnobody\n")
    return load_project(folder)


@pytest.fixture(scope="module")
def messages() -> Iterator[list[Any]]:
    with webhook([]) as (address, received), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWAY_WEBHOOK_URL", address)
        yield received


@pytest.fixture(scope="module")
def runner(project: Project, messages: list[Any]) -> Runner:
    numbers = iter(range(100))

    def run(pipeline: PipelineName) -> RunReport:
        settings = cluster_settings(project, pipeline)
        name = f"{pipeline}-{next(numbers)}"
        return run_job(
            Job(
                project=project.name,
                run_id=name,
                directory=project.state / "runs" / name,
                cache=project.state / "cache",
                pipeline=BUILDERS[pipeline],
                settings=settings.model_dump(mode="json"),
                steps=tuple(settings.steps),
            )
        )

    return run


@pytest.fixture(scope="module")
def trained(runner: Runner) -> RunReport:
    return runner("training")


def test_training_ends_with_a_version_and_a_message(trained: RunReport, project: Project, messages: list[Any]) -> None:
    assert trained.status == "done"
    assert [step.status for step in trained.steps] == ["ran"] * 8
    assert registry_for(project.directory).find(project.name, CHALLENGER) is not None
    assert [message["text"].splitlines()[0] for message in messages] == ["small: training succeeded (SUCCEEDED)"]


def test_the_page_gets_a_matrix_that_counts_every_pair_once(trained: RunReport) -> None:
    evaluation = trained.step("evaluate").outputs["evaluation"]
    features = trained.step("featurize").outputs["features"]
    matrix = confusion_matrix(evaluation, features)
    assert matrix is not None
    # Counted anew, pair by pair: what is relevant is held out and not in the history, of users who have one.
    rankings, users, history, held_out = (
        pq.read_table(file).to_pylist()
        for file in (
            evaluation / "rankings.parquet",
            evaluation / "per_user.parquet",
            features / "train.parquet",
            features / "test.parquet",
        )
    )
    judged = {row["user"] for row in users}
    seen = {(row["user"], row["item"]) for row in history if row["user"] in judged}
    relevant = {(row["user"], row["item"]) for row in held_out if row["user"] in judged} - seen
    chosen = {(row["user"], row["item"]) for row in rankings if row["rank"] <= 5}
    items = {row["item"] for row in history} | {row["item"] for row in held_out}
    pairs = {(user, item) for user in judged for item in items} - seen
    assert matrix == [
        [len(relevant & chosen), len(relevant - chosen)],
        [len(chosen - relevant), len(pairs - chosen - relevant)],
    ]
    page = render(evaluation)
    assert "all gates passed" in page
    assert "<script" not in page


def test_what_serves_is_judged_beside_the_new_model_and_predicts(
    trained: RunReport, runner: Runner, project: Project
) -> None:
    registry = registry_for(project.directory)
    version = registry.find(project.name, CHALLENGER)
    assert version is not None
    registry.set_alias(project.name, CHAMPION, version.version)

    retrained = runner("retraining")
    assert retrained.status == "done"
    seen = retrained.step("observe").result
    assert seen["bundle_sha256"] == version.sha256
    assert seen["window_start"] < "2026-01-01" < seen["window_end"]
    statuses = {step.step: step.status for step in retrained.steps}
    assert statuses["observe"] == statuses["extract"] == "ran", "the world outside is looked at each time"
    assert statuses["evaluate"] == "ran", "another champion is another evaluation"
    gates = (retrained.step("evaluate").outputs["evaluation"] / "gates.json").read_text()
    assert "champion" in gates, "retraining compares, though the file has no such gate"

    predicted = runner("batch_prediction")
    assert predicted.status == "done"
    answers = pq.read_table(predicted.step("batch_predict").outputs["predictions"] / "predictions.parquet")
    rows = answers.to_pylist()
    assert [row["user"] for row in rows] == ["person-0001"] * 3 + ["person-0002"] * 3 + ["nobody"] * 3
    assert {row["fallback"] for row in rows if row["user"] == "nobody"} == {"unknown_user"}
    assert predicted.step("batch_predict").result["bundle_sha256"] == version.sha256
