"""Rollouts on disk: what a killed controller finds again, and what it may not do twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.contracts.errors import ArtifactError, UsageError
from slipway.contracts.rollout import ArmTarget, RolloutSpec
from slipway.serving.local.desired import Arm
from slipway.serving.local.observed import ArmStatus, Observed
from slipway.serving.rollout.core.decide import new_state
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.local import LocalPlane
from slipway.serving.rollout.readings import Snapshot
from slipway.serving.rollout.store import Record, RolloutFolder, RolloutStore

SPEC = RolloutSpec(
    id="20260101-000000-000-films-v2",
    model="films",
    candidates=(ArmTarget(arm="films-v2", version="2", digest="ab"),),
    stable=ArmTarget(arm="films-v1", version="1", digest="cd"),
)


@pytest.fixture
def folder(tmp_path: Path) -> RolloutFolder:
    arm = Arm(name="films-v2", model="films", version="2", bundle=tmp_path)
    return RolloutStore(tmp_path / "rollouts").create(SPEC, {"films-v2": arm})


def test_a_record_reads_back_as_it_was_written(folder: RolloutFolder) -> None:
    record = Record(new_state(SPEC, 5.0), Snapshot(5.0, {"a": {"b": (1.5, 0.1)}}), window_end=4.5)
    folder.write(record, [{"type": "event", "at": 5.0}])
    found = folder.read()
    assert found is not None
    assert found.to_dict() == record.to_dict()
    assert folder.history() == [{"type": "event", "at": 5.0}]


def test_history_that_the_state_does_not_know_of_is_cut_off(folder: RolloutFolder) -> None:
    record = Record(new_state(SPEC, 5.0))
    folder.write(record, [{"n": 1}])
    with (folder.path / "history.jsonl").open("a") as handle:  # killed after the history, before the state
        handle.write('{"n": 2}\n{"n": 3')
    again = folder.read()
    assert again is not None
    folder.write(again, [{"n": 4}])
    assert folder.history() == [{"n": 1}, {"n": 4}]


def test_an_altered_state_is_refused_and_not_guessed_at(folder: RolloutFolder) -> None:
    folder.write(Record(new_state(SPEC, 5.0)))
    content = json.loads((folder.path / "state.json").read_text())
    content["state"]["unheard_of"] = 1
    (folder.path / "state.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"state\.json"):
        folder.read()


def test_commands_keep_their_order_and_go_when_they_were_handled(folder: RolloutFolder) -> None:
    first, second = folder.give("pause", "a"), folder.give("resume", "b")
    assert folder.commands() == (first, second)
    folder.clear([first.id])
    assert folder.commands() == (second,)


def test_a_half_made_rollout_is_not_there(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    (tmp_path / ".x.partial").mkdir()
    assert store.all() == []
    with pytest.raises(UsageError, match="slipway rollout start"):
        store.find(None)


def test_a_version_that_went_back_is_remembered_by_its_digest(folder: RolloutFolder) -> None:
    store = RolloutStore(folder.path.parent)
    assert [open_one.id for open_one in store.open()] == [SPEC.id]
    state = new_state(SPEC, 5.0)
    folder.write(Record(replace(state, phase=Phase.ROLLED_BACK, went_back=("ab",))))
    assert store.open() == []
    assert store.went_back("films") == {"ab": SPEC.id}
    assert store.went_back("shop") == {}


def test_a_version_that_was_replaced_or_aborted_may_come_again(folder: RolloutFolder) -> None:
    store = RolloutStore(folder.path.parent)
    state = replace(new_state(SPEC, 5.0), phase=Phase.ROLLED_BACK)
    folder.write(Record(state))
    assert store.went_back("films") == {}
    folder.write(Record(replace(state, went_back=("ab",), aborted=True)))
    assert store.went_back("films") == {}


def test_a_dead_arm_does_not_make_the_weight_of_the_others_look_larger(tmp_path: Path) -> None:
    def no_registry() -> None:
        raise AssertionError("not needed")

    plane = LocalPlane(tmp_path, no_registry)  # type: ignore[arg-type]
    arms = {"films-v1": ArmStatus(total=2), "films-v2": ArmStatus(ready=2, total=2, weight_applied=5)}
    observed = Observed(arms=arms, updated_at=9e12)
    found = plane.arms(observed, {"films-v2": "ab"})
    assert (found["films-v2"].weight_applied, found["films-v1"].weight_applied) == (5, 0)
    assert plane.arms(Observed(arms=arms), {}) == {}


def test_rollouts_that_have_ended_are_not_read_again(folder: RolloutFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RolloutStore(folder.path.parent)
    folder.write(Record(replace(new_state(SPEC, 5.0), phase=Phase.PROMOTED)))
    assert store.open() == []
    reads: list[str] = []
    read = RolloutFolder.read

    def counted(self: RolloutFolder) -> Record | None:
        reads.append(self.id)
        return read(self)

    monkeypatch.setattr(RolloutFolder, "read", counted)
    assert store.open() == []
    assert reads == []
    folder.write(Record(replace(new_state(SPEC, 5.0), phase=Phase.PROGRESSING)))
    assert [found.id for found in store.open()] == [SPEC.id]


def test_a_rollout_that_ended_under_another_version_of_slipway_stands_in_nobodys_way(folder: RolloutFolder) -> None:
    folder.write(Record(replace(new_state(SPEC, 5.0), phase=Phase.ROLLED_BACK)))
    content = json.loads((folder.path / "state.json").read_text())
    content["state"]["of_another_version"] = 1
    (folder.path / "state.json").write_text(json.dumps(content))
    store = RolloutStore(folder.path.parent)
    assert store.open() == []
    assert store.went_back("films") == {}


def test_one_that_has_not_ended_under_another_version_is_refused_with_what_to_do(folder: RolloutFolder) -> None:
    folder.write(Record(new_state(SPEC, 5.0)))
    content = json.loads((folder.path / "state.json").read_text())
    content["state"]["of_another_version"] = 1
    (folder.path / "state.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="move the folder away"):
        RolloutStore(folder.path.parent).open()
