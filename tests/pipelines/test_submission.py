"""One run for one submission: repeated, retried, at the same moment, on schedule; and what a follower is told."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standin_pipelines_api import PipelinesApi, serving

from slipway.cli.main import run_command_line
from slipway.components.wrapper import ERROR_MARK
from slipway.contracts.errors import GateError, ServiceError, UsageError
from slipway.pipelines.submission.__main__ import main
from slipway.pipelines.submission.client import PipelinesClient
from slipway.pipelines.submission.submit import (
    Submission,
    due_of_job,
    ensure_recurring_run,
    submit,
    submit_scheduled,
)

SUBMISSION = Submission("tiny", "tiny-1", {"window_end": "@scheduled"}, "s3://artifacts/tiny", "runner")
DUE = datetime(2026, 1, 31, 3, 0, tzinfo=UTC)

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: tiny
data: {interactions: {source: "s3://events/ratings/"}}
"""


@pytest.fixture
def api() -> Iterator[PipelinesApi]:
    with serving() as served:
        for number in range(5):
            served.add_version("tiny", f"tiny-{number}")
        yield served


@pytest.fixture
def client(api: PipelinesApi) -> PipelinesClient:
    return PipelinesClient(api.address, "ml", pauses=(0.01, 0.01))


def test_a_repetition_finds_the_run(api: PipelinesApi, client: PipelinesClient) -> None:
    first = submit(client, SUBMISSION, "run-tiny-abc")
    again = submit(client, SUBMISSION, "run-tiny-abc")
    assert (first.new, again.new, len(api.runs)) == (True, False, 1)
    assert first.run_id == again.run_id
    made = api.runs[0]
    assert made["pipeline_version_reference"] == {
        "pipeline_id": "id-of-tiny",
        "pipeline_version_id": "id-of-tiny-1",
    }
    assert made["runtime_config"]["pipeline_root"] == "s3://artifacts/tiny"
    assert made["service_account"] == "runner"


def test_of_two_at_the_same_moment_one_run_is_left(api: PipelinesApi, client: PipelinesClient) -> None:
    together = threading.Barrier(2)
    api.before_create = lambda: together.wait(10) and None
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda _: submit(client, SUBMISSION, "run-tiny-abc"), range(2)))
    assert len({outcome.run_id for outcome in outcomes}) == 1
    assert sorted(outcome.new for outcome in outcomes) == [False, True]
    left = [run for run in api.runs if run["state"] == "PENDING"]
    assert [run["run_id"] for run in left] == [outcomes[0].run_id]
    assert submit(client, SUBMISSION, "run-tiny-abc").run_id == outcomes[0].run_id


def test_an_api_that_is_starting_is_waited_for(api: PipelinesApi, client: PipelinesClient) -> None:
    api.failures = 2
    assert submit(client, SUBMISSION, "run-tiny-abc").new
    api.failures = 3
    with pytest.raises(ServiceError, match="starting"):
        submit(client, SUBMISSION, "run-tiny-abc")


def test_an_unknown_version_and_a_dead_address_are_told(api: PipelinesApi, client: PipelinesClient) -> None:
    for pipeline, version in (("tiny", "tiny-99"), ("other", "tiny-1")):
        with pytest.raises(ServiceError, match=f"no version {version} of the pipeline {pipeline}"):
            submit(client, Submission(pipeline, version), "run")
    assert api.runs == []
    with pytest.raises(ServiceError, match="does not answer"):
        submit(PipelinesClient("http://127.0.0.1:1", "ml", pauses=()), SUBMISSION, "run")
    with pytest.raises(UsageError, match="no address"):
        PipelinesClient("ml-pipeline", "ml")


def test_the_token_of_the_pod_goes_with_each_request(
    api: PipelinesApi, client: PipelinesClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    client.pipeline_id("tiny")
    (tmp_path / "token").write_text("renewed\n")
    client.pipeline_id("tiny")
    assert api.tokens == ["Bearer first", "Bearer renewed"]


def test_a_schedule_makes_one_run_each_time_and_knows_when_it_was_due(
    api: PipelinesApi, client: PipelinesClient
) -> None:
    made = [submit_scheduled(client, SUBMISSION, "tiny-nightly", DUE, overlap="forbid") for _ in range(2)]
    assert [outcome.new for outcome in made] == [True, False]
    assert api.runs[0]["display_name"] == "tiny-nightly-20260131030000"
    assert api.runs[0]["runtime_config"]["parameters"] == {"window_end": "2026-01-31T03:00:00+00:00"}
    assert due_of_job("tiny-nightly-29497140") == datetime(2026, 1, 31, 3, 0, tzinfo=UTC)
    assert due_of_job("run-by-hand") is None


@pytest.mark.parametrize(
    ("overlap", "concurrency", "states", "third"),
    [
        ("forbid", 1, ["PENDING"], False),
        ("replace", 1, ["CANCELED", "PENDING"], True),
        ("allow", 2, ["PENDING", "PENDING"], False),
        ("allow", 3, ["PENDING", "PENDING"], True),
    ],
)
def test_overlapping_runs_are_treated_as_the_schedule_says(
    api: PipelinesApi, client: PipelinesClient, overlap: Any, concurrency: int, states: list[str], third: bool
) -> None:
    def at(hour: int) -> Any:
        due = DUE.replace(hour=hour)
        return submit_scheduled(
            client, SUBMISSION, "tiny-nightly", due, overlap=overlap, maximum_concurrency=concurrency
        )

    # A run of another schedule, whose name begins alike, is nobody's business here.
    submit_scheduled(client, SUBMISSION, "tiny-nightlyx", DUE, overlap="forbid")
    at(3)
    second = at(4)
    own = [run for run in api.runs if run["display_name"].startswith("tiny-nightly-")]
    assert [run["state"] for run in own] == states
    if len(states) == 1:
        assert second.run_id is None
        assert "tiny-nightly-20260131030000 still goes on" in second.reason
        own[0]["state"] = "SUCCEEDED"
        assert at(4).new
    else:
        assert (at(5).run_id is not None) == third


def test_a_recurring_run_is_made_once_and_replaces_its_older_self(api: PipelinesApi, client: PipelinesClient) -> None:
    def ensure(name: str, cron: str) -> bool:
        return ensure_recurring_run(
            client, SUBMISSION, "tiny-hourly", name, cron=cron, concurrency=2, catch_up=False
        ).new

    assert ensure("tiny-hourly-1", "0 15 * * * *")
    assert not ensure("tiny-hourly-1", "0 15 * * * *")
    ensure_recurring_run(
        client, SUBMISSION, "tiny-daily", "tiny-daily-1", cron="0 0 3 * * *", concurrency=1, catch_up=True
    )
    assert ensure("tiny-hourly-2", "0 20 * * * *")
    assert sorted(entry["display_name"] for entry in api.recurring) == ["tiny-daily-1", "tiny-hourly-2"]
    hourly = next(entry for entry in api.recurring if entry["display_name"] == "tiny-hourly-2")
    assert hourly["trigger"] == {"cron_schedule": {"cron": "0 20 * * * *"}}
    assert (hourly["no_catchup"], hourly["mode"], hourly["experiment_id"]) == (True, "ENABLE", "e-1")


def test_an_older_recurring_run_stays_until_what_it_started_has_ended(
    api: PipelinesApi, client: PipelinesClient
) -> None:
    def ensure(number: int) -> None:
        name = f"tiny-hourly-{number}"
        ensure_recurring_run(
            client, SUBMISSION, "tiny-hourly", name, cron=f"0 {number} * * * *", concurrency=1, catch_up=False
        )

    ensure(1)
    started = submit(client, SUBMISSION, "tiny-hourly-1-run")
    api.runs[0] |= {"recurring_run_id": "recurring-0", "state": "RUNNING"}
    ensure(2)
    modes = {entry["display_name"]: entry["mode"] for entry in api.recurring}
    assert modes == {"tiny-hourly-1": "DISABLE", "tiny-hourly-2": "ENABLE"}
    assert client.run(str(started.run_id))["state"] == "RUNNING"
    api.runs[0]["state"] = "SUCCEEDED"
    ensure(2)
    assert [entry["display_name"] for entry in api.recurring] == ["tiny-hourly-2"]


def test_the_job_prints_what_came_of_it(
    api: PipelinesApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("slipway.pipelines.submission.__main__.TERMINATION_LOG", tmp_path / "log")
    monkeypatch.setenv("SLIPWAY_JOB_NAME", "tiny-nightly-29497140")
    common = ["--api", api.address, "--namespace", "ml", "--pipeline", "tiny", "--version", "tiny-1"]
    assert main(["run", *common, "--run-name", "run-tiny-abc"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == "run-000"
    assert json.loads((tmp_path / "log").read_text())["name"] == "run-tiny-abc", "the pod's status records the run"
    assert main(["run", *common, "--schedule", "tiny-nightly", "--overlap", "forbid"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny-nightly-20260131030000"
    assert main(["run", *common[:-1], "tiny-99", "--run-name", "run-x"]) == 1
    assert main(["run", *common, "--run-name", "run-x", "--parameters", "{"]) == 2, "it would never become right"


def task(name: str, state: str, pod: str = "", end: str = "2026-01-01T00:01:00Z") -> dict[str, Any]:
    return {
        "display_name": name,
        "state": state,
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": end,
        "child_tasks": [{"pod_name": pod}] if pod else [],
    }


def finish(api: PipelinesApi, state: str, *tasks: dict[str, Any]) -> None:
    api.runs[0] |= {"state": state, "run_details": {"task_details": [task("root-driver", "SUCCEEDED"), *tasks]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slipway.yaml").write_text(PROJECT)
    return tmp_path


def test_submit_uploads_follows_and_says_how_it_ended(
    api: PipelinesApi, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", "-f", str(folder), "--api", api.address, "-o", "json"]
    api.pipelines.clear()
    api.versions.clear()
    assert run_command_line([*command, "--no-follow"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["new"], shown["state"]) == (True, "PENDING")
    finish(api, "SUCCEEDED", task("validate", "SKIPPED"), task("train", "SUCCEEDED"))
    assert run_command_line(command) == 0
    output = capsys.readouterr()
    again = json.loads(output.out)
    assert (again["new"], again["run_id"]) == (False, shown["run_id"])
    assert again["tasks"] == [
        {"task": "validate", "state": "SKIPPED", "seconds": 60.0},
        {"task": "train", "state": "SUCCEEDED", "seconds": 60.0},
    ]
    assert "validate: cached" in output.err
    assert len(api.versions) == len(api.runs) == 1
    assert run_command_line([*command, "--no-follow", "--label", "again"]) == 0
    assert len(api.runs) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(GateError("ndcg@10 is too low", remedy="Train longer."), 3), (ServiceError("MLflow does not answer"), 1)],
)
def test_a_failed_run_says_what_the_step_said_and_a_gate_is_told_apart(
    api: PipelinesApi, folder: Path, capsys: pytest.CaptureFixture[str], error: Any, code: int
) -> None:
    command = ["submit", "-f", str(folder), "--api", api.address, "-o", "json"]
    assert run_command_line([*command, "--no-follow"]) == 0
    capsys.readouterr()
    api.logs["pod-1"] = (
        f"I0101 launcher\n{ERROR_MARK}{json.dumps(error.to_dict())}\nerror: {error}\nexit status {code}\n"
    )
    finish(api, "FAILED", task("train", "SUCCEEDED"), task("register", "FAILED", "pod-1"))
    assert run_command_line(command) == code
    output = capsys.readouterr()
    assert json.loads(output.out)["failed_task"] == "register"
    told = json.loads(output.err[output.err.index("{") :])
    assert told["what"] == error.what
    assert told["step"] == "register"


def test_the_step_is_named_and_not_the_group_around_it(
    api: PipelinesApi, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", "-f", str(folder), "--api", api.address, "-o", "json"]
    assert run_command_line([*command, "--no-follow"]) == 0
    capsys.readouterr()
    first, last = ServiceError("the first attempt"), GateError("the last attempt")
    api.logs |= {f"try-{n}": ERROR_MARK + json.dumps(error.to_dict()) for n, error in enumerate((first, last))}
    parts = [
        task("exit-handler-1", "FAILED", "register") | {"pod_name": "group"},
        task("register", "FAILED") | {"pod_name": "register", "child_tasks": [{"pod_name": "executor"}]},
        task("executor", "FAILED")
        | {"pod_name": "executor", "child_tasks": [{"pod_name": "try-0"}, {"pod_name": "try-1"}]},
        task("executor(0)", "FAILED") | {"pod_name": "try-0"},
        task("executor(1)", "FAILED") | {"pod_name": "try-1"},
        task("register-driver", "SUCCEEDED"),
        task("notify", "SUCCEEDED"),
    ]
    finish(api, "FAILED", *parts)
    assert run_command_line(command) == 3
    shown = json.loads(capsys.readouterr().out)
    assert shown["failed_task"] == "register"
    assert shown["error"]["what"] == "the last attempt"
    assert [entry["task"] for entry in shown["tasks"]] == ["exit-handler-1", "register", "notify"]


def test_a_failed_run_without_a_log_is_still_a_failed_run(api: PipelinesApi, folder: Path) -> None:
    command = ["submit", "-f", str(folder), "--api", api.address]
    assert run_command_line([*command, "--no-follow"]) == 0
    finish(api, "FAILED", task("train", "FAILED", "pod-gone"))
    assert run_command_line(command) == 1


def test_what_submits_needs_no_library() -> None:
    """The pod that submits starts at once, and from an image that holds neither KFP nor anything large."""
    code = (
        "import sys, slipway.pipelines.submission.__main__\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'kfp', 'pydantic', 'yaml', 'requests', 'click'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
