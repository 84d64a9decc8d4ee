"""TrainJobs by the Trainer's own schema, and checkpoints in a real S3 store.

No controller of the Trainer is needed: the API server checks each object against the custom resource, unknown fields
included, and makes nothing (server-side dry run).
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from cluster_namespace import Cluster
from small_features import write_features
from training_process import start_step, train_request

from slipway.components.progress import Progress
from slipway.components.train.step import run
from slipway.contracts.errors import ServiceError
from slipway.contracts.project import Project
from slipway.contracts.project.training import CheckpointSpec
from slipway.models.checkpoint_store import MARK, STATE, CheckpointPlace
from slipway.models.checkpoints import Checkpoint
from slipway.models.interface import ignore_epoch
from slipway.pipelines.kubernetes.manifests import to_yaml
from slipway.pipelines.kubernetes.train_jobs import train_job

pytestmark = pytest.mark.cluster
KEY = "a" * 64


def files(store: pafs.FileSystem, folder: str) -> list[str]:
    found = store.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(info.path for info in found if info.type == pafs.FileType.File)


def made_job(namespace: str) -> dict[str, Any]:
    project = Project.model_validate(
        {
            "apiVersion": "slipway.dev/v1alpha1",
            "name": "small",
            "data": {"interactions": {"source": "s3://models/events/"}},
            "model": {"family": "neural_collaborative_filtering"},
            "training": {"processes": 2, "train_job": {"nodes": 2}},
            "kubernetes": {
                "namespace": namespace,
                "service_account": "runner",
                "s3": {"endpoint": "http://s3.kubeflow:9000", "secret": "keys"},
                "pipeline_root": "s3://models/runs",
                "images": {"pull_secrets": ["registry"]},
                "volumes": [{"config_map": "settings", "mount": "/settings"}, {"empty": True, "mount": "/cache"}],
                "steps": {"train": {"gpu": {"count": 2}, "cpu": 4, "memory": "8Gi", "spot": True}},
            },
        }
    )
    return train_job(project, "features", "model")


def dry_run(cluster: Cluster, made: dict[str, Any], *, check: bool = True) -> Any:
    return cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=to_yaml([made]), check=check
    )


def test_the_trainers_custom_resource_takes_the_train_job_and_refuses_a_field_it_does_not_know(
    cluster: Cluster,
) -> None:
    known = cluster.kubectl("api-resources", "--api-group=trainer.kubeflow.org", "-o", "name").stdout
    if "trainjobs" not in known:
        pytest.skip("the cluster has no custom resources of Kubeflow Trainer")
    made = made_job(cluster.namespace)
    assert "created (server dry run)" in dry_run(cluster, made).stdout
    made["spec"]["trainer"]["numberOfNodes"] = 2
    refused = dry_run(cluster, made, check=False)
    assert refused.returncode != 0
    assert "numberOfNodes" in refused.stderr


def save(place: CheckpointPlace, epochs: int) -> None:
    state = Checkpoint(place, KEY, ignore_epoch)
    for epoch in range(1, epochs + 1):
        arrays = {"weights": np.full((2, 3), epoch, dtype=np.float32)}
        state.save(epoch, {"loss": 1 / epoch}, arrays, last=epoch == epochs)


def test_in_a_store_a_prefix_without_its_mark_is_no_checkpoint(bucket: tuple[str, pafs.FileSystem]) -> None:
    name, store = bucket
    place = CheckpointPlace(f"s3://{name}/states/mine", keep=2)
    assert Checkpoint(place, KEY, ignore_epoch).resume() is None
    save(place, 4)
    folder = f"{name}/states/mine/{KEY[:16]}"

    def epoch() -> int | None:
        state = Checkpoint(place, KEY, ignore_epoch).resume()
        return None if state is None else state.epoch

    assert epoch() == 4
    assert [path for path in files(store, folder) if path.endswith(MARK)] == [
        f"{folder}/epoch-0000000{number}/{MARK}" for number in (3, 4)
    ]
    store.delete_file(f"{folder}/epoch-00000004/{MARK}")
    assert epoch() == 3
    with store.open_output_stream(f"{folder}/epoch-00000003/{STATE}") as stream:
        stream.write(b"another")
    assert epoch() is None
    place.clear()
    assert files(store, folder) == []


def test_a_store_that_is_away_stops_the_training_and_does_not_begin_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="does not answer"):
        Checkpoint(CheckpointPlace("s3://nowhere/states"), KEY, ignore_epoch).resume()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_goes_on_from_the_store_to_the_same_weights(
    bucket: tuple[str, pafs.FileSystem], tmp_path: Path, processes: int
) -> None:
    name, store = bucket
    features = write_features(tmp_path / "features")
    run(train_request(features, tmp_path / "alone", processes, epochs=8), Progress())
    pafs.copy_files(str(features), f"{name}/features", destination_filesystem=store)
    # Nothing but the store is shared with whoever goes on: features, checkpoints and the model are there.
    changes: dict[str, Any] = {"features": f"s3://{name}/features", "output": f"s3://{name}/model"}
    changes["checkpoints"] = CheckpointSpec(location=f"s3://{name}/checkpoints")
    request = train_request(features, tmp_path / "model", processes, epochs=8).model_copy(update=changes)
    with start_step(request, tmp_path / "outcome") as step:
        assert step.stderr is not None
        told = 0
        while told < 4 and (line := step.stderr.readline()):
            told += line.startswith(b"loss =")
        step.send_signal(signal.SIGKILL)
        step.stderr.read()
    assert files(store, f"{name}/model") == []
    assert any(path.endswith(MARK) for path in files(store, f"{name}/checkpoints"))
    run(request, Progress())
    for file in sorted(path.name for path in (tmp_path / "alone").iterdir()):
        with store.open_input_stream(f"{name}/model/{file}") as stream:
            assert stream.read() == (tmp_path / "alone" / file).read_bytes(), file
    assert len(json.loads((tmp_path / "alone" / "curves.json").read_text())["epochs"]) == 8
    # What a finished training kept goes; the model is what is left of it.
    assert files(store, f"{name}/checkpoints") == []
