"""A checkpoint is whole or absent, the newest sound one is taken, and only as many stay as were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.contracts.errors import EnvironmentProblemError
from slipway.models.checkpoint_store import MARK, STATE, CheckpointPlace, FolderStore
from slipway.models.checkpoints import Checkpoint
from slipway.models.interface import ignore_epoch

KEY = "a" * 64


def checkpoint(place: CheckpointPlace, key: str = KEY, told: list[Any] | None = None) -> Checkpoint:
    return Checkpoint(place, key, ignore_epoch if told is None else lambda *epoch: told.append(epoch))


def save(place: CheckpointPlace, epochs: int, key: str = KEY) -> None:
    state = checkpoint(place, key)
    for epoch in range(1, epochs + 1):
        arrays = {"weights": np.full((2, 3), epoch, dtype=np.float32), "step": np.array(float(epoch))}
        state.save(epoch, {"loss": 1 / epoch}, arrays, last=epoch == epochs)


def folders(place: CheckpointPlace) -> list[str]:
    return sorted(path.name for path in (Path(place.location) / KEY[:16]).iterdir())


def test_the_newest_state_comes_back_with_its_curve(tmp_path: Path) -> None:
    place = CheckpointPlace(str(tmp_path))
    save(place, 3)
    told: list[Any] = []
    state = checkpoint(place, told=told).resume()
    assert state is not None
    assert state.epoch == 3
    assert state.arrays["weights"].tolist() == [[3.0] * 3] * 2
    assert state.arrays["step"].shape == ()
    assert told == [(epoch, {"loss": 1 / epoch}) for epoch in (1, 2, 3)]


@pytest.mark.parametrize(("every", "keep", "expected"), [(1, 2, [4, 5]), (2, 3, [2, 4, 5]), (3, 1, [5]), (10, 2, [5])])
def test_as_many_stay_as_were_asked_for_and_the_last_always_does(
    tmp_path: Path, every: int, keep: int, expected: list[int]
) -> None:
    place = CheckpointPlace(str(tmp_path), every=every, keep=keep)
    save(place, 5)
    assert folders(place) == [f"epoch-{epoch:08d}" for epoch in expected]


def damage_state(folder: Path) -> None:
    content = bytearray((folder / STATE).read_bytes())
    content[-1] ^= 1
    (folder / STATE).write_bytes(bytes(content))


def shorten_state(folder: Path) -> None:
    (folder / STATE).write_bytes((folder / STATE).read_bytes()[:-1])


def remove_mark(folder: Path) -> None:
    (folder / MARK).unlink()


def empty_mark(folder: Path) -> None:
    (folder / MARK).write_bytes(b"")


def another_format(folder: Path) -> None:
    content = json.loads((folder / MARK).read_text())
    (folder / MARK).write_text(json.dumps(content | {"format": 99}))


@pytest.mark.parametrize("harm", [damage_state, shorten_state, remove_mark, empty_mark, another_format])
def test_one_that_is_not_whole_is_passed_over_for_the_one_before(tmp_path: Path, harm: Any) -> None:
    place = CheckpointPlace(str(tmp_path))
    save(place, 3)
    harm(tmp_path / KEY[:16] / "epoch-00000003")
    state = checkpoint(place).resume()
    assert state is not None
    assert state.epoch == 2
    assert state.curves == [{"loss": 1.0}, {"loss": 0.5}]


def test_what_a_killed_process_left_half_written_is_not_read_and_goes_with_the_next(tmp_path: Path) -> None:
    place = CheckpointPlace(str(tmp_path))
    save(place, 2)
    partial = tmp_path / KEY[:16] / ".epoch-00000009.partial-4711"
    partial.mkdir()
    (partial / STATE).write_bytes(b"half")
    state = checkpoint(place).resume()
    assert state is not None
    assert state.epoch == 2
    save(place, 3)
    assert folders(place) == ["epoch-00000002", "epoch-00000003"]


def test_trainings_that_share_a_place_do_not_disturb_each_other(tmp_path: Path) -> None:
    place = CheckpointPlace(str(tmp_path), keep=1)
    save(place, 5, "b" * 64)
    assert checkpoint(place).resume() is None
    save(place, 2)
    state = checkpoint(place, "b" * 64).resume()
    assert state is not None
    assert state.epoch == 5
    place.clear()
    assert not tmp_path.exists()


def test_a_key_that_begins_alike_is_another_training(tmp_path: Path) -> None:
    place = CheckpointPlace(str(tmp_path))
    save(place, 2)
    assert checkpoint(place, KEY[:-1] + "b").resume() is None


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    place = CheckpointPlace(str(tmp_path))
    save(place, 1)
    files = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(files) == [MARK, STATE]
    assert json.loads(files[MARK])["files"][STATE]["bytes"] == len(files[STATE])
    assert json.loads(files[STATE][8 : 8 + int.from_bytes(files[STATE][:8], "little")])["weights"]["dtype"] == "F32"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EnvironmentProblemError, match="could not write a checkpoint") as raised:
        FolderStore(tmp_path / "file").write(1, {STATE: b"", MARK: b""})
    assert raised.value.where == str(tmp_path / "file")
