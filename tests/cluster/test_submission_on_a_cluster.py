"""Submissions to a real Kubeflow Pipelines: one run for one submission, and what it tells about it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cluster_namespace import Cluster

from slipway.cli.main import run_command_line
from slipway.contracts.errors import ServiceError
from slipway.contracts.project import Project, load_project
from slipway.pipelines.compile import CompiledPipeline, compile_pipeline
from slipway.pipelines.kubernetes.manifests import pipeline_manifests, to_yaml
from slipway.pipelines.submission.client import API_VARIABLE, PipelinesClient
from slipway.pipelines.submission.submit import Submission, ensure_recurring_run, submit, submit_scheduled

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("pipelines_resources")]

# Where Kubeflow Pipelines itself runs; it makes the runs of an installation for one user there.
NAMESPACE = os.environ.get("KF_PIPELINES_NAMESPACE", "kubeflow")


@pytest.fixture
def client() -> PipelinesClient:
    address = os.environ.get(API_VARIABLE)
    if not address:
        pytest.skip(f"{API_VARIABLE} names no Kubeflow Pipelines")
    return PipelinesClient(address, NAMESPACE)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    name = f"test-{secrets.token_hex(4)}"
    (tmp_path / "slipway.yaml").write_text(
        f"apiVersion: slipway.dev/v1alpha1\nname: {name}\n"
        'data: {interactions: {source: "s3://events/ratings/"}}\n'
        f"kubernetes: {{namespace: {NAMESPACE}}}\n"
    )
    return load_project(tmp_path)


@pytest.fixture
def applied(project: Project, client: PipelinesClient) -> Iterator[CompiledPipeline]:
    """A version that was brought by kubectl, as GitOps does."""
    cluster = Cluster(NAMESPACE)
    compiled = compile_pipeline(project)
    text = to_yaml(pipeline_manifests(project, compiled))
    cluster.kubectl("apply", "-f", "-", text=text)
    try:
        yield compiled
    finally:
        for run in client.runs_of_schedule(f"run-{compiled.name}"):
            client.terminate(run["run_id"])
        cluster.kubectl("delete", "-f", "-", "--wait=false", text=text, check=False)


def test_a_submission_and_its_repetitions_are_one_run(applied: CompiledPipeline, client: PipelinesClient) -> None:
    name = f"run-{applied.name}-1"
    submission = Submission(applied.name, applied.version, {"window_end": "2026-01-31T00:00:00Z"})
    first = submit(client, submission, name)
    assert first.new
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda _: submit(client, submission, name), range(4)))
    assert {outcome.run_id for outcome in again} == {first.run_id}
    assert not any(outcome.new for outcome in again)
    assert first.run_id is not None
    run = client.run(first.run_id)
    assert run["runtime_config"]["parameters"] == {"window_end": "2026-01-31T00:00:00Z"}
    assert run["pipeline_version_reference"] == client.pipeline_version(applied.name, applied.version)


def test_an_unknown_version_is_told(applied: CompiledPipeline, client: PipelinesClient) -> None:
    for pipeline, version in ((applied.name, "no-such-version"), ("no-such-pipeline", "x")):
        with pytest.raises(ServiceError, match="there is no version"):
            submit(client, Submission(pipeline, version), f"run-{applied.name}-2")


def test_a_schedule_leaves_out_what_would_overlap(applied: CompiledPipeline, client: PipelinesClient) -> None:
    prefix, submission = f"run-{applied.name}-nightly", Submission(applied.name, applied.version)
    days = [datetime(2026, 1, day, 3, tzinfo=UTC) for day in (30, 31)]
    first = submit_scheduled(client, submission, prefix, days[0], overlap="forbid")
    assert first.new
    second = submit_scheduled(client, submission, prefix, days[1], overlap="forbid")
    assert second.run_id is None
    assert first.name in second.reason
    assert submit_scheduled(client, submission, prefix, days[0], overlap="forbid").run_id == first.run_id


def test_a_recurring_run_is_made_once(applied: CompiledPipeline, client: PipelinesClient) -> None:
    prefix, submission = f"{applied.name}-hourly", Submission(applied.name, applied.version)

    def ensure(name: str, minute: int) -> bool:
        # Disabled: it is the record that matters here, not the runs.
        return ensure_recurring_run(
            client, submission, prefix, name, cron=f"0 {minute} * * * *", concurrency=1, catch_up=False, enabled=False
        ).new

    try:
        assert [ensure(f"{prefix}-1", 15), ensure(f"{prefix}-1", 15), ensure(f"{prefix}-2", 20)] == [True, False, True]
        (left,) = client.recurring_runs(prefix)
        assert left["trigger"]["cron_schedule"]["cron"] == "0 20 * * * *"
        assert left["status"] == "DISABLED"
    finally:
        for entry in client.recurring_runs(prefix):
            client.delete_recurring_run(entry["recurring_run_id"])


def test_submit_brings_the_version_itself(
    project: Project, client: PipelinesClient, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", "-f", str(project.directory), "--api", client.address, "--no-follow", "-o", "json"]
    try:
        assert run_command_line(command) == 0
        first = capsys.readouterr()
        assert "uploaded" in first.err
        assert run_command_line(command) == 0
        second = capsys.readouterr()
        assert "uploaded" not in second.err
        assert json.loads(first.out)["run_id"] == json.loads(second.out)["run_id"]
        # What came through the API does not stand in the way of what is declared.
        manifests = to_yaml(pipeline_manifests(project, compile_pipeline(project)))
        Cluster(NAMESPACE).kubectl("apply", "-f", "-", text=manifests)
        assert Cluster(NAMESPACE).kubectl("apply", "-f", "-", text=manifests).stdout.count("unchanged") == 2
        assert run_command_line(command) == 0
        assert json.loads(capsys.readouterr().out)["run_id"] == json.loads(first.out)["run_id"]
    finally:
        for run in client.runs_of_schedule(f"run-{project.name}"):
            client.terminate(run["run_id"])
        cluster = Cluster(NAMESPACE)
        # A pipeline takes its versions with it.
        cluster.kubectl("delete", "pipelines.pipelines.kubeflow.org", project.name, "--wait=false")


def test_a_recurring_run_makes_runs(applied: CompiledPipeline, client: PipelinesClient) -> None:
    prefix, submission = f"run-{applied.name}-often", Submission(applied.name, applied.version)
    made = ensure_recurring_run(
        client, submission, prefix, f"{prefix}-1", cron="*/3 * * * * *", concurrency=1, catch_up=False
    )
    assert made.run_id is not None
    try:
        runs = Cluster(NAMESPACE).wait_for("a run of the recurring run", lambda: client.runs_of_schedule(prefix), 60.0)
        assert runs[0]["recurring_run_id"] == made.run_id
        # The project changes while the run goes on: nothing that goes on is ended.
        ensure_recurring_run(
            client, submission, prefix, f"{prefix}-2", cron="0 0 3 * * *", concurrency=1, catch_up=False
        )
        statuses = {entry["display_name"]: entry["status"] for entry in client.recurring_runs(prefix)}
        assert statuses == {f"{prefix}-1": "DISABLED", f"{prefix}-2": "ENABLED"}
        assert Cluster(NAMESPACE).get("workflows", "-l", f"pipeline/runid={runs[0]['run_id']}")["items"]
    finally:
        for entry in client.recurring_runs(prefix):
            client.disable_recurring_run(entry["recurring_run_id"])
            client.delete_recurring_run(entry["recurring_run_id"])
