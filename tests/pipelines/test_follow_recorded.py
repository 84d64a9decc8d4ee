"""What is told of runs whose description was recorded from the API server of Kubeflow Pipelines 2.17."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.pipelines.submission.client import PipelinesClient
from slipway.pipelines.submission.follow import failure_of, tasks_of
from slipway.pipelines.submission.nodes import node_id

STEPS = ["observe", "extract", "validate", "featurize", "train", "evaluate", "register", "notify"]


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "recorded" / "runs.json").read_text())
    return content


class Logs(PipelinesClient):
    """The logs of pods, by node."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__("http://localhost:1", "kubeflow")
        self.texts = texts

    def log(self, run_id: str, pod: str) -> str:
        return self.texts.get(pod, "")


def test_the_steps_of_a_run_are_told_in_their_order_without_groups_drivers_and_attempts(
    runs: dict[str, dict[str, Any]],
) -> None:
    tasks = list(tasks_of(runs["trained"]))
    assert [task.task for task in tasks] == STEPS
    assert {task.state for task in tasks} == {"SUCCEEDED"}
    assert all(task.seconds is not None for task in tasks)


def test_what_came_from_the_cache_is_told(runs: dict[str, dict[str, Any]]) -> None:
    states = {task.task: task.state for task in tasks_of(runs["cached"])}
    assert states == dict.fromkeys(STEPS, "SKIPPED") | dict.fromkeys(("observe", "register", "notify"), "SUCCEEDED")


def test_a_failed_run_names_the_step_and_reads_the_log_of_its_pod(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["failed"]
    assert {task.task: task.state for task in tasks_of(run)}["validate"] == "FAILED"
    said = {"what": "3 rows have no time", "exit_code": 1}
    logs = Logs({"films-87ecf6-dtzdz-588069766": f"reading\nslipway-error: {json.dumps(said)}\n"})
    assert failure_of(logs, run) == ("validate", said)


def test_ids_of_nodes_are_those_of_argo() -> None:
    assert node_id("w", "w") == "w"
    # FNV-1a of "foobar", from the hash's published vectors.
    assert node_id("w", "foobar") == f"w-{0xBF9CF968}"
