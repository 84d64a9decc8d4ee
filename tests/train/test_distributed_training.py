"""Several processes train what one trains; one that fails fails the step with its reason, and none is left behind.

How far two processes may be from one is `TOLERANCE`, relative to the largest value: what differs is the order in which
float32 sums are rounded. Measured on this data: 2e-8 in the loss, 3e-7 in the weights.
"""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_features import write_features
from training_process import processes_of, start_step, train_request, until

from slipway.components.progress import Progress
from slipway.components.train.fitting import read_curves
from slipway.components.train.launch import LOST, Group, _cause, error_file
from slipway.components.train.step import TrainResult, run
from slipway.contracts.bundle import WEIGHTS, bundle_digest, read_bundle
from slipway.contracts.errors import DataError, SlipwayError, UsageError
from slipway.contracts.project.schema import ModelSpec
from slipway.models.tensors import read_tensors

pytest.importorskip("torch")

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("data") / "features")


def train(features: Path, output: Path, processes: int, progress: Progress | None = None, **more: Any) -> TrainResult:
    return run(train_request(features, output, processes, **more), progress or Progress())


@pytest.fixture(scope="module")
def alone(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "model"
    train(features, output, 1)
    return output


def assert_close(found: Path, expected: Path) -> None:
    losses = [np.array([point["loss"] for point in read_curves(folder)]) for folder in (found, expected)]
    assert np.abs(losses[0] - losses[1]).max() <= TOLERANCE * losses[1].max()
    arrays, others = read_tensors(found / WEIGHTS), read_tensors(expected / WEIGHTS)
    assert sorted(arrays) == sorted(others)
    for name, array in arrays.items():
        limit = TOLERANCE * max(float(np.abs(others[name]).max(initial=0)), 1e-3)
        assert np.abs(array - others[name]).max(initial=0) <= limit, name


def test_two_processes_train_what_one_trains_and_fewer_go_on_from_what_they_keep(
    features: Path, alone: Path, tmp_path: Path
) -> None:
    told: list[tuple[str, float]] = []

    class Listening(Progress):
        def metric(self, name: str, value: float) -> None:
            told.append((name, value))

    asked = train_request(features, tmp_path / "model", 2, tmp_path / "checkpoints")
    result = run(asked, Listening())
    assert_close(tmp_path / "model", alone)
    assert result.epochs == 3
    assert result.fingerprint == bundle_digest(read_bundle(tmp_path / "model"))
    assert told == [("loss", point["loss"]) for point in read_curves(tmp_path / "model")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "model"]

    kept = sorted((tmp_path / "checkpoints").glob("*/epoch-*"))
    assert [path.name for path in kept] == ["epoch-00000002", "epoch-00000003"]
    shutil.rmtree(kept[-1])
    told.clear()
    run(asked.model_copy(update={"processes": 1, "output": tmp_path / "again"}), Listening())
    assert_close(tmp_path / "again", alone)
    before = read_curves(tmp_path / "model")
    assert told[:2] == [("loss", point["loss"]) for point in before[:2]]


def test_a_family_that_trains_in_one_process_is_refused_before_anything_starts(features: Path, tmp_path: Path) -> None:
    asked = train_request(features, tmp_path / "model", 2)
    asked = asked.model_copy(update={"model": ModelSpec(family="popularity")})
    with pytest.raises(UsageError, match="trains in one process") as raised:
        run(asked, Progress())
    assert raised.value.where == "training.processes"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_process_is_the_error_of_the_step(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training diverged in epoch 1") as raised:
        train(features, tmp_path / "model", 2, learning_rate=1e30)
    assert raised.value.remedy == "Lower learning_rate."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_no_process_outlives_the_step(features: Path, tmp_path: Path, number: int, code: int) -> None:
    with start_step(train_request(features, tmp_path / "model", 2, epochs=10_000), tmp_path / "outcome") as step:
        processes = until(lambda: processes_of(step), "both processes run")
        step.send_signal(number)
        assert step.wait(timeout=120) == code
        until(lambda: not any(process.is_running() for process in processes), "both processes end")


def test_the_variables_of_the_trainer_say_who_trains_and_torchrun_itself_is_refused() -> None:
    assert Group.of(3, {}) == Group(nodes=1, per_node=3, node=0)
    trainer = {"PET_NNODES": "4:4", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "3"}
    assert Group.of(1, trainer) == Group(nodes=4, per_node=2, node=3)
    with pytest.raises(UsageError, match="must be numbers"):
        Group.of(1, trainer | {"PET_NPROC_PER_NODE": "auto"})
    with pytest.raises(UsageError, match="started by torchrun"):
        Group.of(1, {"TORCHELASTIC_RUN_ID": "7"})


def test_processes_that_cannot_meet_are_an_error_that_names_the_place(features: Path, tmp_path: Path) -> None:
    variables = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "no-such-pod.invalid",
        "PET_MASTER_PORT": "29500",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("PET_RDZV_CONF", "timeout=2")
        with pytest.raises(SlipwayError, match="could not meet") as raised:
            train(features, tmp_path / "model", 1)
    assert "no-such-pod.invalid" in str(raised.value)


@pytest.mark.parametrize(
    ("codes", "said", "nodes", "what"),
    [
        ({0: -15, 1: -9}, {}, 1, "process 1 of 2 was killed by SIGKILL"),
        ({0: 1, 1: -9}, {0: LOST}, 1, "process 1 of 2 was killed by SIGKILL"),
        ({0: 1, 1: 1}, {0: LOST, 1: "DataError"}, 1, "said by 1"),
        ({0: -15, 1: 1}, {1: "DataError"}, 1, "said by 1"),
        ({0: 1, 1: -15}, {0: LOST}, 1, "process 1 of 2 was killed by SIGTERM"),
        ({0: -15, 1: 1}, {1: LOST}, 2, "said by 1"),
        ({0: 1, 1: 3}, {0: LOST}, 1, "process 1 of 2 ended with exit code 3"),
    ],
)
def test_of_several_failures_the_cause_is_told_and_not_what_followed(
    codes: dict[int, int], said: dict[int, str], nodes: int, what: str, tmp_path: Path
) -> None:
    @dataclass
    class Failure:
        exitcode: int

        def signal_name(self) -> str:
            return signal.Signals(-self.exitcode).name

    for rank, name in said.items():
        content = {"error": name, "what": f"said by {rank}", "where": None, "remedy": None, "exit_code": 1}
        error_file(tmp_path, rank).write_text(json.dumps(content))
    group = Group(nodes=nodes, per_node=2 // nodes)
    error = _cause({rank: Failure(code) for rank, code in codes.items()}, tmp_path, group)
    assert error.what == what
    assert type(error) is (DataError if "DataError" in said.values() else SlipwayError)
