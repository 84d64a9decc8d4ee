"""The TrainJob says what the project file says, its command works under the Trainer's variables, and lint refuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from small_features import write_features

from slipway.cli.compile import compile_command
from slipway.components.train.fitting import read_curves
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import UsageError
from slipway.contracts.project import Project
from slipway.pipelines.kubernetes import train_jobs
from slipway.pipelines.kubernetes.pods import pod_settings
from slipway.pipelines.kubernetes.train_jobs import train_job

NEURAL = {
    "family": "neural_collaborative_filtering",
    "parameters": {"factors": 4, "hidden": [8], "epochs": 2, "batch_size": 512},
    "device": "cpu",
}
STORE = {"s3": {"endpoint": "http://s3:9000", "secret": "keys"}, "pipeline_root": "s3://models/runs"}


def project(kubernetes: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **parts: Any) -> Project:
    content = {
        "apiVersion": "slipway.dev/v1alpha1",
        "name": "small",
        "data": {"interactions": {"source": "s3://models/events/"}},
        "model": NEURAL,
        "training": training or {},
        "kubernetes": kubernetes or {},
        **parts,
    }
    return Project.model_validate(content)


def arguments(made: dict[str, Any]) -> dict[str, str]:
    given = made["spec"]["trainer"]["command"][len(train_jobs.COMMAND) :]
    return dict(zip((name.removeprefix("--") for name in given[::2]), given[1::2], strict=True))


def pod(made: dict[str, Any]) -> dict[str, Any]:
    jobs = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert [job["name"] for job in jobs] == ["node"]
    spec: dict[str, Any] = jobs[0]["template"]["spec"]["template"]["spec"]
    return spec


def test_nodes_processes_gpus_spot_nodes_and_the_runtime_come_from_the_project_file() -> None:
    made = train_job(
        project(
            {
                "steps": {"train": {"gpu": {"count": 2}, "memory": "8Gi", "spot": True}},
                "service_account": "trainer",
            },
            {"processes": 2, "train_job": {"nodes": 3, "runtime": "torch-spot"}},
            steps={"train": {"timeout": "2h"}},
        ),
        "features",
        "model",
    )
    spec = made["spec"]
    assert spec["runtimeRef"] == {"name": "torch-spot"}
    assert spec["activeDeadlineSeconds"] == 7200 + train_jobs.SECONDS_OF_GRACE
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (3, 2)
    assert spec["trainer"]["resourcesPerNode"] == {
        "requests": {"memory": "8Gi"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": 2},
    }
    assert pod(made)["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert pod(made)["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert pod(made)["serviceAccountName"] == "trainer"
    assert pod(made)["securityContext"]["runAsNonRoot"] is True
    assert pod(made)["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("kubernetes", "said", "location", "keys"),
    [
        ({}, None, ".slipway/checkpoints", False),
        (STORE, None, "s3://models/runs/checkpoints", True),
        (STORE, "s3://spot/small", "s3://spot/small", True),
        (STORE, "kept", "kept", False),
    ],
)
def test_checkpoints_are_where_the_file_says_or_beside_the_bundles_and_the_pod_has_the_keys(
    kubernetes: dict[str, Any], said: str | None, location: str, keys: bool
) -> None:
    described = project(kubernetes, {"checkpoints": {"location": said, "keep": 5}})
    made = train_job(described, "features", "model")
    assert json.loads(arguments(made)["checkpoints"]) == {"every": 1, "keep": 5, "location": location}
    variables = {entry["name"]: entry for entry in made["spec"]["trainer"]["env"]}
    assert ("AWS_ACCESS_KEY_ID" in variables) == keys
    assert (pod_settings(described, "train").environment.get("AWS_ENDPOINT_URL") is not None) == keys
    # No key stands in the object itself.
    assert all("value" not in entry for name, entry in variables.items() if "KEY" in name)


def test_with_everything_in_the_store_and_on_a_server_pods_share_no_folder() -> None:
    addresses = {"features": "s3://models/features", "output": "s3://models/model"}
    alone = train_job(project(STORE, tracking={"uri": "http://mlflow:5000"}), **addresses)
    assert [mount["name"] for mount in pod(alone)["containers"][0]["volumeMounts"]] == ["tmp"]
    assert arguments(alone)["features"] == "s3://models/features"
    assert arguments(alone)["output"] == "s3://models/model"
    # Checkpoints on the volume, features in the store: the pod has both, and the keys once.
    spec = {"checkpoints": {"location": "kept"}}
    mixed = train_job(project(STORE, spec, tracking={"uri": "http://mlflow:5000"}), **addresses)
    assert [volume["name"] for volume in pod(mixed)["volumes"]] == ["tmp", "volume-0"]
    names = [entry["name"] for entry in mixed["spec"]["trainer"]["env"]]
    assert names.count("AWS_ACCESS_KEY_ID") == 1


def test_the_same_project_gives_the_same_object_and_another_another_name() -> None:
    one, again = (train_job(project(), "features", "model") for _ in range(2))
    assert one == again
    other = train_job(project(training={"train_job": {"nodes": 2}}), "features", "model")
    assert other["metadata"]["name"] != one["metadata"]["name"]
    long = train_job(project(name="a" * 40), "features", "model")["metadata"]["name"]
    # Pods are <name>-node-0-<index>, and a host's name has 63 characters.
    assert len(f"{long}-node-0-1023") <= 63


@pytest.mark.parametrize(
    ("kubernetes", "training", "parts", "paths", "message"),
    [
        ({}, {"train_job": {"nodes": 2}}, {"model": {"family": "popularity"}}, {}, "popularity trains in one process"),
        ({"steps": {"train": {"gpu": {"count": 4}}}}, {"processes": 2}, {}, {}, "4 GPUs and 2 processes"),
        ({}, {}, {}, {"features": "/home/me/features"}, "no folder of the project's volume"),
        ({}, {}, {}, {"output": "../model"}, "no folder of the project's volume"),
        ({}, {"checkpoints": {"location": "/home/me"}}, {}, {}, "a path of this machine"),
        ({"secrets": [{"secret": "x", "env": {"PET_NNODES": "n"}}]}, {}, {}, {}, "a variable of the Trainer's own"),
    ],
)
def test_what_could_not_train_is_refused(
    kubernetes: dict[str, Any], training: dict[str, Any], parts: dict[str, Any], paths: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_job(project(kubernetes, training, **parts), **({"features": "features", "output": "model"} | paths))


def test_the_command_line_writes_it_and_no_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"apiVersion": "slipway.dev/v1alpha1", "name": "small"}
    content |= {"data": {"interactions": {"source": "s3://models/events/"}}, "model": NEURAL}
    (tmp_path / "slipway.yaml").write_text(yaml.safe_dump(content))
    command = ["--train-job", "job.yaml"]
    refused = CliRunner().invoke(compile_command, command)
    assert isinstance(refused.exception, UsageError)
    done = CliRunner().invoke(compile_command, [*command, "--features", "features", "--output", "model"])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((tmp_path / "job.yaml").read_text()) == train_job(project(), "features", "model")
    assert not (tmp_path / "pipeline.yaml").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_very_command_trains_one_model_in_two_pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes stand for the pods, with the variables that Trainer 2.3 sets in them (its torch plugin)."""
    pytest.importorskip("torch")
    monkeypatch.setattr(train_jobs, "_SCRATCH", str(tmp_path / "scratch"))
    volume = tmp_path / "volume"
    write_features(volume / "features")
    described = project(
        {"project": {"mount": str(volume)}},
        {"train_job": {"nodes": 2}},
        tracking={"uri": "http://127.0.0.1:9"},  # nobody listens: MLflow is away
    )
    trainer = train_job(described, "features", "model")["spec"]["trainer"]
    environment = os.environ | {entry["name"]: entry["value"] for entry in trainer["env"]}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
    environment |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    pods = [
        subprocess.Popen(
            trainer["command"],
            env=environment | {"PET_NODE_RANK": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(trainer["numNodes"])
    ]
    for started in pods:
        said, _ = started.communicate(timeout=240)
        assert started.returncode == 0, said
    bundle = read_bundle(volume / "model")
    assert bundle_digest(bundle)
    assert bundle.parameters["factors"] == 4
    assert [point["epoch"] for point in read_curves(volume / "model")] == [1, 2]
    assert not list((volume / ".slipway" / "checkpoints").rglob("epoch-*"))
    assert sorted(path.name for path in volume.iterdir()) == [".slipway", "features", "model"]
