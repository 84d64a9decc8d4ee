"""The film training pipeline on a real Kubeflow Pipelines: from `kubectl apply` to a registered bundle."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import yaml
from cluster_namespace import Cluster
from cluster_services import Webhook
from film_project import film_project, put_films

from slipway.cli.main import run_command_line
from slipway.contracts.project import Project
from slipway.models.registry import Registry
from slipway.pipelines.submission.client import API_VARIABLE, PipelinesClient
from slipway.pipelines.submission.follow import follow

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.usefixtures("pipelines_resources", "built_images"),
    pytest.mark.timeout(1800),
]

NAMESPACE = os.environ.get("KF_PIPELINES_NAMESPACE", "kubeflow")
CACHED_STEPS = ["extract", "validate", "featurize", "train", "evaluate"]


@dataclass
class Installation:
    """Kubeflow Pipelines' namespace with what the film project needs there."""

    cluster: Cluster
    client: PipelinesClient
    bucket: str
    store: pafs.FileSystem
    tracking: str
    chat: Webhook
    folder: Path
    suffix: str
    names: set[str] = field(default_factory=set)

    def project(self, name: str, **changes: Any) -> Project:
        """Returns the film example for this installation under a name of its own."""
        name = f"{name}-{self.suffix}"
        self.names.add(name)
        return film_project(
            self.folder / name,
            f"s3://{self.bucket}/films",
            name=name,
            kubernetes={
                "namespace": NAMESPACE,
                "bundles": f"s3://{self.bucket}/bundles",
                "service_account": "pipeline-runner",
                "s3": {"endpoint": os.environ["AWS_ENDPOINT_URL"], "secret": f"store-{self.suffix}"},
                "notification": {"webhook": {"secret": f"chat-{self.suffix}", "key": "url"}},
            },
            tracking={"uri": self.tracking},
            **changes,
        )

    def record_of(self, job: str) -> dict[str, Any]:
        """Waits for a Job and returns what its pod recorded."""

        def recorded() -> dict[str, Any] | None:
            for pod in self.cluster.get("pods", "-l", f"job-name={job}")["items"]:
                for status in pod["status"].get("containerStatuses", ()):
                    ended = status["state"].get("terminated")
                    if ended is not None and ended["exitCode"] == 0:
                        content: dict[str, Any] = json.loads(ended["message"])
                        return content
            return None

        answer: dict[str, Any] = self.cluster.wait_for(f"the record of {job}", recorded, 240)
        return answer

    def follow(self, run_id: str) -> tuple[str, dict[str, str]]:
        """Waits for the end of a run and returns its state and those of its tasks."""
        state, tasks, _, _ = follow(self.client, run_id)
        return state, {task.task: task.state for task in tasks}


@pytest.fixture(scope="module")
def kubeflow(
    module_bucket: tuple[str, pafs.FileSystem],
    pods_mlflow: str,
    pods_address: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    address = os.environ.get(API_VARIABLE)
    if not address:
        pytest.skip(f"{API_VARIABLE} names no Kubeflow Pipelines")
    bucket, store = module_bucket
    put_films(store, f"{bucket}/films")
    cluster, suffix = Cluster(NAMESPACE), secrets.token_hex(3)
    with Webhook(pods_address) as chat:
        keys = [f"--from-literal={key}={os.environ[key]}" for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        cluster.kubectl("create", "secret", "generic", f"store-{suffix}", *keys)
        cluster.kubectl("create", "secret", "generic", f"chat-{suffix}", f"--from-literal=url={chat.url}")
        client = PipelinesClient(address, NAMESPACE)
        folder = tmp_path_factory.mktemp("projects")
        made = Installation(cluster, client, bucket, store, pods_mlflow, chat, folder, suffix)
        try:
            yield made
        finally:
            for name in made.names:
                for run in client.runs_of_schedule(f"run-{name}"):
                    client.terminate(run["run_id"])
                part = f"app.kubernetes.io/part-of={name}"
                cluster.kubectl("delete", "jobs,cronjobs", "-l", part, "--wait=false", check=False)
                cluster.kubectl("delete", "pipelines.pipelines.kubeflow.org", name, "--wait=false", check=False)
            cluster.kubectl("delete", "secret", f"store-{suffix}", f"chat-{suffix}", check=False)


@dataclass
class Applied:
    """A run that a Job started after `kubectl apply`."""

    project: Project
    job: dict[str, Any]
    record: dict[str, Any]
    state: str
    tasks: dict[str, str]


@pytest.fixture(scope="module")
def applied(kubeflow: Installation) -> Applied:
    project = kubeflow.project("films")
    deploy = project.directory / "deploy"
    assert run_command_line(["compile", "-f", str(project.directory), "--manifests", str(deploy)]) == 0
    kubeflow.cluster.kubectl("apply", "-f", str(deploy))
    job = yaml.safe_load(next(deploy.glob("*-3-run.yaml")).read_text())
    record = kubeflow.record_of(job["metadata"]["name"])
    return Applied(project, job, record, *kubeflow.follow(record["run_id"]))


def test_what_is_applied_ends_with_a_registered_bundle(kubeflow: Installation, applied: Applied) -> None:
    assert applied.record["new"]
    assert applied.state == "SUCCEEDED", applied.tasks
    version = Registry(kubeflow.tracking).get(applied.project.name, "challenger")
    assert version.bundle_uri is not None
    assert version.bundle_uri.startswith(f"s3://{kubeflow.bucket}/bundles/{applied.project.name}/")
    assert version.tags["slipway.run_id"] == applied.record["run_id"]
    model = kubeflow.store.get_file_info(f"{version.bundle_uri.removeprefix('s3://')}/model.json")
    assert model.type == pafs.FileType.File


def test_the_job_again_finds_the_run(kubeflow: Installation, applied: Applied) -> None:
    again = json.loads(json.dumps(applied.job))
    again["metadata"]["name"] = f"again-{kubeflow.suffix}"
    kubeflow.cluster.kubectl("apply", "-f", "-", text=json.dumps(again))
    record = kubeflow.record_of(again["metadata"]["name"])
    assert record["run_id"] == applied.record["run_id"]
    assert not record["new"]
    assert len(kubeflow.client.runs_named(record["name"])) == 1


def test_people_are_told_how_the_run_ended(kubeflow: Installation, applied: Applied) -> None:
    told = [message for message in kubeflow.chat.messages if message.startswith(f"{applied.project.name}: ")]
    assert len(told) == 1
    assert told[0].startswith(f"{applied.project.name}: training succeeded")


def test_a_second_run_takes_all_but_the_looks_outside_from_the_cache(
    kubeflow: Installation, applied: Applied, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", "-f", str(applied.project.directory), "--api", kubeflow.client.address]
    assert run_command_line([*command, "--label", "second", "-o", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    states = {task["task"]: task["state"] for task in report["tasks"]}
    assert [states[step] for step in CACHED_STEPS] == ["SKIPPED"] * len(CACHED_STEPS), states
    assert [states[step] for step in ("observe", "register")] == ["SUCCEEDED"] * 2
    assert len(Registry(kubeflow.tracking).list(applied.project.name)) == 1, "the same bundle is the same version"


def test_a_gate_stops_the_run_and_submit_says_why(kubeflow: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    project = kubeflow.project(
        "strict",
        gates=[{"metric": "ndcg@10", "minimum": 0.99}],
        # A refusal is not tried again where the file says so; Kubeflow Pipelines cannot tell it from other failures.
        steps={"register": {"retries": 0}},
    )
    assert run_command_line(["submit", "-f", str(project.directory), "--api", kubeflow.client.address]) == 3
    assert "ndcg@10" in capsys.readouterr().err
    assert Registry(kubeflow.tracking).list(project.name) == []
    deadline = time.monotonic() + 30
    while not any(message.startswith(f"{project.name}: training failed") for message in kubeflow.chat.messages):
        assert time.monotonic() < deadline, kubeflow.chat.messages
        time.sleep(0.2)
