"""The film training pipeline, container by container as pods, as its compiled form says."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from cluster_namespace import Cluster
from cluster_services import Webhook
from container_engine import images
from film_project import TABLES, film_project, put_films
from ir_pods import IrPods
from ir_walk import ContainerCall, PipelineRun, walk

from slipway.cli.main import run_command_line
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.project import Project
from slipway.models.registry import Registry, registry_for
from slipway.pipelines.compile import compile_pipeline

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("built_images"), pytest.mark.timeout(1500)]

STEPS = ["observe", "extract", "validate", "featurize", "train", "evaluate", "register"]
GPU = "nvidia.com/gpu"


@dataclass
class Plane:
    """A namespace with what the pipeline needs, and where this machine finds the same."""

    cluster: Cluster
    bucket: str
    store: pafs.FileSystem
    tracking: str
    chat: Webhook
    folder: Path

    def project(self, name: str, **changes: Any) -> Project:
        """Returns the film example for this plane."""
        return film_project(
            self.folder / name,
            f"s3://{self.bucket}/films",
            name=name,
            kubernetes={
                "namespace": self.cluster.namespace,
                "pipeline_root": f"s3://{self.bucket}/root",
                "notification": {"webhook": {"secret": "chat", "key": "url"}},
            },
            tracking={"uri": self.tracking},
            **changes,
        )

    def run(self, project: Project) -> PipelineRun:
        """Carries the training pipeline out."""
        compiled = compile_pipeline(project)
        run_id = f"run-{secrets.token_hex(3)}"
        pods = IrPods(self.cluster, compiled.platform, run_id, images()["validate"])
        return walk(compiled.specification, {}, root=f"s3://{self.bucket}/root", run_id=run_id, execute=pods.execute)


@pytest.fixture(scope="module")
def plane(
    module_cluster: Cluster,
    module_bucket: tuple[str, pafs.FileSystem],
    pods_mlflow: str,
    pods_address: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Plane]:
    bucket, store = module_bucket
    put_films(store, f"{bucket}/films")
    with Webhook(pods_address) as chat:
        keys = [f"--from-literal={key}={os.environ[key]}" for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        endpoint = f"--from-literal=AWS_ENDPOINT_URL={os.environ['AWS_ENDPOINT_URL']}"
        module_cluster.kubectl("create", "secret", "generic", "artifact-store", *keys, endpoint)
        module_cluster.kubectl("create", "secret", "generic", "chat", f"--from-literal=url={chat.url}")
        yield Plane(module_cluster, bucket, store, pods_mlflow, chat, tmp_path_factory.mktemp("projects"))


@pytest.fixture(scope="module")
def trained(plane: Plane) -> PipelineRun:
    return plane.run(plane.project("films"))


def test_the_pipeline_ends_with_a_registered_bundle(plane: Plane, trained: PipelineRun) -> None:
    states = {path.rpartition("/")[2]: task.state for path, task in trained.tasks.items()}
    logs = {path: [end.log[-2000:] for end in task.attempts] for path, task in trained.tasks.items()}
    assert trained.state == "SUCCEEDED", logs
    assert [states[step] for step in STEPS] == ["SUCCEEDED"] * len(STEPS)
    version = Registry(plane.tracking).get("films", "challenger")
    assert version.bundle_uri == f"s3://{plane.bucket}/root/bundles/films/{version.sha256[:12]}"
    assert version.tags["slipway.run_id"].startswith("run-"), "the pod's label reached the step"
    # Every artifact of the run is in the store, with its metrics for the dashboard.
    metrics = trained.tasks["exit-handler-1/evaluate"].artifacts["metrics"]
    assert metrics["metadata"]["ndcg@10"] > 0.05
    card = plane.store.get_file_info(f"{version.bundle_uri.removeprefix('s3://')}/card.md")
    assert card.type == pafs.FileType.File


def test_the_bundle_is_the_one_that_a_run_on_one_machine_registers(
    plane: Plane, trained: PipelineRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained.state == "SUCCEEDED"
    monkeypatch.setenv("SLIPWAY_FEAST", "0")
    (tmp_path / "films").mkdir()
    for name in TABLES:
        target = str(tmp_path / "films" / name)
        pafs.copy_files(f"{plane.bucket}/films/{name}", target, source_filesystem=plane.store)
    here = film_project(tmp_path / "films", ".")
    assert run_command_line(["run", "-f", str(here.directory)]) == 0
    local = registry_for(here.directory).get("films", "challenger")
    remote = Registry(plane.tracking, bundles=tmp_path / "fetched")
    fetched = remote.with_bundle(remote.get("films", "challenger"))
    ours, theirs = read_bundle(local.bundle_dir), read_bundle(fetched.bundle_dir)
    assert bundle_digest(theirs) == fetched.sha256
    assert theirs.files == ours.files, "weights and index are the same bytes"
    # The lineage tells that one was made from tables that extract had copied; all else is the same.
    assert theirs.model_copy(update={"lineage": {}}) == ours.model_copy(update={"lineage": {}})


def test_the_exit_handler_tells_how_it_ended(plane: Plane, trained: PipelineRun) -> None:
    assert trained.tasks["notify"].state == "SUCCEEDED"
    assert plane.chat.messages[0].splitlines()[0] == "films: training succeeded (COMPLETE)"


def test_a_gate_stops_the_run_with_code_3_and_people_are_told(plane: Plane) -> None:
    run = plane.run(plane.project("strict", gates=[{"metric": "ndcg@10", "minimum": 0.99}]))
    register = run.tasks["exit-handler-1/register"]
    assert run.state == "FAILED"
    assert [end.exit_code for end in register.attempts] == [3, 3], "tried again as the pipeline says"
    assert "ndcg@10" in register.attempts[-1].log
    assert Registry(plane.tracking).list("strict") == []
    assert run.tasks["notify"].state == "SUCCEEDED"
    assert plane.chat.messages[-1].startswith("strict: training failed (FAILED)")


def test_a_source_that_is_absent_fails_at_once_and_nothing_runs_after_it(plane: Plane) -> None:
    project = film_project(
        plane.folder / "absent",
        f"s3://{plane.bucket}/nothing",
        name="absent",
        kubernetes={"namespace": plane.cluster.namespace, "pipeline_root": f"s3://{plane.bucket}/root"},
        tracking={"uri": plane.tracking},
    )
    run = plane.run(project)
    states = {path: task.state for path, task in run.tasks.items()}
    assert states == {"observe": "FAILED"} | dict.fromkeys(STEPS[1:], "SKIPPED")
    observe = run.tasks["observe"].attempts[-1]
    assert observe.exit_code == 1
    assert "no Parquet or CSV object is there" in observe.log


def test_a_gpu_request_lands_on_a_gpu_node_and_nowhere_else(plane: Plane) -> None:
    nodes = plane.cluster.get("nodes")["items"]
    with_gpu = {node["metadata"]["name"] for node in nodes if int(node["status"]["allocatable"].get(GPU, 0))}
    if not with_gpu:
        pytest.skip(f"no node offers {GPU}")
    taints = [
        taint for node in nodes if node["metadata"]["name"] in with_gpu for taint in node["spec"].get("taints", ())
    ]
    tolerated = [{"key": taint["key"], "effect": taint["effect"]} for taint in taints]

    def placed(label: str, tolerations: list[dict[str, str]]) -> tuple[str | None, str]:
        project = film_project(
            plane.folder / label,
            f"s3://{plane.bucket}/films",
            kubernetes={
                "namespace": plane.cluster.namespace,
                "pipeline_root": f"s3://{plane.bucket}/root",
                "steps": {"train": {"gpu": {"count": 1}, "tolerations": tolerations}},
            },
            tracking={"uri": plane.tracking},
        )
        compiled = compile_pipeline(project)
        executor = compiled.specification["deploymentSpec"]["executors"]["exec-train"]["container"]
        told = {"inputs": {"artifacts": {}}, "outputs": {"artifacts": {}, "parameters": {}}}
        pods = IrPods(plane.cluster, compiled.platform, f"gpu-{label}", images()["validate"])
        pod = pods.pod(ContainerCall("train", 0, "exec-train", executor, told))
        plane.cluster.kubectl("apply", "-f", "-", text=json.dumps(pod))

        def decided() -> tuple[str | None, str] | None:
            found = plane.cluster.get("pod", pod["metadata"]["name"])
            if found["spec"].get("nodeName"):
                return found["spec"]["nodeName"], ""
            conditions = {entry["type"]: entry for entry in found["status"].get("conditions", ())}
            refused = conditions.get("PodScheduled", {})
            return (None, refused.get("message", "")) if refused.get("reason") == "Unschedulable" else None

        answer: tuple[str | None, str] = plane.cluster.wait_for("a decision of the scheduler", decided, 60)
        plane.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false", "--force", check=False)
        return answer

    assert placed("tolerant", tolerated)[0] in with_gpu
    if tolerated:
        node, message = placed("intolerant", [])
        assert node is None
        assert "Insufficient nvidia.com/gpu" in message, "nodes without one were looked at, and left out"
