"""Artifacts: whole or absent, and known by what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.errors import ArtifactError, EnvironmentProblemError, LockHeldError
from slipway.contracts.files import exclusive_lock, write_atomically, write_json


def make(path: Path, text: str = "rows") -> str:
    with write_artifact(path, kind="dataset", slipway_version="1") as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "data.txt").write_text(text)
        draft.rows = {"part/data.txt": 1}
    return read_manifest(path).fingerprint


def test_the_same_content_has_the_same_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    assert make(tmp_path / "a") == make(tmp_path / "b")
    assert make(tmp_path / "c", "other") != make(tmp_path / "a")


def test_a_failing_writer_leaves_the_old_artifact_and_nothing_else(tmp_path: Path) -> None:
    before = make(tmp_path / "a")
    with (
        pytest.raises(RuntimeError, match="half way"),
        write_artifact(tmp_path / "a", kind="dataset", slipway_version="1") as draft,
    ):
        (draft.path / "data.txt").write_text("half")
        raise RuntimeError("half way")
    assert read_manifest(tmp_path / "a", verify=True).fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("change", ["alter", "truncate", "remove"])
def test_a_changed_file_is_found_out(tmp_path: Path, change: str) -> None:
    make(tmp_path / "a")
    file = tmp_path / "a" / "part" / "data.txt"
    if change == "alter":
        file.write_text("rowz")
    elif change == "truncate":
        file.write_text("ro")
    else:
        file.unlink()
    with pytest.raises(ArtifactError, match=r"part/data\.txt"):
        read_manifest(tmp_path / "a", verify=True)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="dataset artifact, not a model"):
        read_manifest(tmp_path / "a", kind="model")


@pytest.mark.parametrize("manifest", [None, "", "{", '{"format_version": 2}'])
def test_a_folder_without_a_sound_manifest_is_no_artifact(tmp_path: Path, manifest: str | None) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path)


def test_a_write_into_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblemError, match="Free space"):
        write_atomically(tmp_path / "file" / "below", "content")


def test_infinite_numbers_never_reach_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_lock_names_its_holder_and_is_free_again_afterwards(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive_lock(lock, holder="a training run", remedy="Wait."):
        with (
            pytest.raises(LockHeldError, match="a training run"),
            exclusive_lock(lock, holder="another", remedy="Wait."),
        ):
            pass
    with exclusive_lock(lock, holder="another", remedy="Wait."):
        pass
