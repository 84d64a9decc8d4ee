"""The part `training:` of a project file: what it says reaches the step, and what it does not say changes no key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from slipway.components.train.step import TrainRequest
from slipway.components.wrapper import build_request
from slipway.contracts.project import Project
from slipway.pipelines.settings import training_settings


def project(training: dict[str, Any] | None = None) -> Project:
    content: dict[str, Any] = {"apiVersion": "slipway.dev/v1alpha1", "name": "small"}
    content["data"] = {"interactions": {"source": "events.parquet"}}
    return Project.model_validate(content | ({} if training is None else {"training": training}))


def request_of(described: Project) -> TrainRequest:
    settings = training_settings(described, folder="/project")["train"]
    paths = {"features": "/in", "output": "/out"}
    return build_request("train", TrainRequest, settings.config, settings.place, paths)


def test_processes_and_checkpoints_reach_the_step() -> None:
    given = {"processes": 2, "checkpoints": {"location": "s3://models/states", "every": 3, "keep": 5}}
    request = request_of(project(given))
    assert request.processes == 2
    assert request.checkpoints.model_dump() == {"location": "s3://models/states", "every": 3, "keep": 5}


def test_only_the_number_of_processes_is_part_of_what_decides_the_outcome() -> None:
    plain, elsewhere = project(), project({"checkpoints": {"location": "kept"}, "train_job": {"nodes": 4}})
    configs = [training_settings(described, folder="/project")["train"].config for described in (plain, elsewhere)]
    assert configs[0] == configs[1]
    assert "processes" not in json.loads(configs[0])
    several = training_settings(project({"processes": 2}), folder="/project")["train"].config
    assert json.loads(several)["processes"] == 2


@pytest.mark.parametrize(
    "training",
    [
        {"processes": 0},
        {"processes": 65},
        {"checkpoints": {"location": "gs://bucket/states"}},
        {"checkpoints": {"location": "s3:///states"}},
        {"checkpoints": {"keep": 0}},
        {"train_job": {"runtime": "Torch Distributed"}},
        {"nodes": 2},
    ],
)
def test_what_cannot_be_meant_is_refused(training: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        project(training)
