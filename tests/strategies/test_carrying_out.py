"""What a controller asks for becomes the plane's desired state, and the plane's word becomes an observation."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from slipway.serving.local.desired import Arm, Desired, read_desired, write_desired
from slipway.serving.local.observed import ArmStatus, Observed
from slipway.serving.local.user_routing import assignment_document
from slipway.serving.rollout.core.types import SetWeights, StartArm, StopArm
from slipway.serving.rollout.local import LocalPlane

ARMS = {
    f"films-v{version}": Arm(name=f"films-v{version}", model="films", version=version, bundle=Path("/bundle"))
    for version in ("1", "2", "3")
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_desired(tmp_path, Desired(arms=(ARMS["films-v1"],), weights={"films-v1": 100}))
    return tmp_path


def local(project: Path) -> LocalPlane:
    return LocalPlane(project, lambda: pytest.fail("nothing here needs the registry"))


def test_weights_copies_and_assignment_are_set_together_for_the_arms_that_run(project: Path) -> None:
    plane = local(project)
    plane.carry_out(StartArm("films-v2"), ARMS)
    plane.carry_out(SetWeights({"films-v1": 100, "films-v2": 0}, {"films-v2": 30, "films-v3": 30}), ARMS)
    desired = read_desired(project)
    assert (desired.weights, desired.mirrors) == ({"films-v1": 100, "films-v2": 0}, {"films-v2": 30})
    assert desired.assignment == "request"
    plane.carry_out(SetWeights({"films-v2": 25, "films-v1": 75}, {}, "user"), ARMS)
    desired = read_desired(project)
    assert (desired.mirrors, desired.assignment, desired.draws_users) == ({}, "user", True)


def test_users_are_drawn_the_same_way_for_the_whole_life_of_a_rollout(project: Path) -> None:
    plane = local(project)
    for name in ("films-v2", "films-v3"):
        plane.carry_out(StartArm(name), ARMS)
    documents = []
    for weights in (
        {"films-v2": 10, "films-v3": 10, "films-v1": 80},
        {"films-v2": 45, "films-v3": 45, "films-v1": 10},
    ):
        plane.carry_out(SetWeights(weights, assignment="user"), ARMS)
        documents.append(json.loads(assignment_document(read_desired(project), secret="s")))
    plane.carry_out(SetWeights({"films-v2": 0, "films-v3": 45, "films-v1": 55}, assignment="user"), ARMS)
    plane.carry_out(StopArm("films-v2"), ARMS)
    documents.append(json.loads(assignment_document(read_desired(project), secret="s")))
    assert {(document["salt"], document["stable"]) for document in documents} == {
        ("s/films-v1/films-v2/films-v3", "films-v1")
    }
    # The version that was dropped keeps its place, or the other one's users would move.
    assert documents[-1]["arms"] == {"films-v1": 55, "films-v2": 0, "films-v3": 45}
    assert [list(document["arms"]) for document in documents] == [list(ARMS)] * 3
    two = {name: ARMS[name] for name in ("films-v1", "films-v3")}
    plane.carry_out(SetWeights({"films-v3": 50, "films-v1": 50}, assignment="user"), two)
    assert json.loads(assignment_document(read_desired(project), secret="s"))["salt"] == "s/films-v1/films-v3"


@pytest.mark.parametrize(("applied", "weight"), [("user", 50), ("request", None), (None, None)])
def test_weights_are_not_known_while_requests_are_drawn_instead_of_users(
    project: Path, applied: str | None, weight: int | None
) -> None:
    observed = Observed.model_validate(
        {
            "arms": {"films-v1": ArmStatus(ready=1, total=1, weight_applied=50, mirror_applied=20)},
            "assignment_desired": "user",
            "assignment_applied": applied,
            "updated_at": time.time(),
        }
    )
    arm = local(project).arms(observed, {})["films-v1"]
    assert (arm.weight_applied, arm.mirror_applied) == (weight, 20)
