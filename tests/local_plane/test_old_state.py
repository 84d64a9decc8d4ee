"""`slipway clean` shows before it removes, and never removes what serves or is referred to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from slipway.cli.main import run_command_line
from slipway.cli.old_state import OldState, bytes_freed, find_old_state
from slipway.contracts.files import exclusive_lock
from slipway.contracts.project import load_project
from slipway.models import registry
from slipway.models.registry import ModelVersion
from slipway.serving.local.desired import Arm, Desired, write_desired

PROJECT = """
apiVersion: slipway.dev/v1alpha1
name: films
data: {interactions: {source: ratings.parquet, columns: {user: u, item: i, timestamp: t}}}
"""
DAY = 86_400.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Seven runs, seven cache entries, four bundles and a rotated log, a day between one and the next."""
    root = tmp_path.resolve()
    (root / "slipway.yaml").write_text(PROJECT)
    state = root / ".slipway"
    for number in range(7):
        for folder in (state / "runs" / f"run{number}", state / "cache" / "train" / f"key{number}"):
            folder.mkdir(parents=True)
            (folder / "data").write_bytes(b"x" * 100)
            at = time.time() - number * DAY
            os.utime(folder, (at, at))
    for name in ("served", "rolled", "registered", "loose"):
        folder = state / "bundles" / "films" / name
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
    write_desired(root, Desired(arms=(_arm(state, "1", "served"),), weights={"films-v1": 100}))
    rollout = state / "serving" / "rollouts" / "one"
    rollout.mkdir(parents=True)
    arms = {"films-v2": json.loads(_arm(state, "2", "rolled").model_dump_json())}
    (rollout / "arms.json").write_text(json.dumps(arms))
    logs = state / "serving" / "logs"
    logs.mkdir()
    (logs / "gateway.log").write_text("now\n")
    (logs / "gateway.log.1").write_text("then\n")
    return root


@pytest.fixture(autouse=True)
def registered(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's answer; MLflow itself takes seconds to make its database and is tested with the registry."""
    bundle = project / ".slipway" / "bundles" / "films" / "registered"
    features = project / ".slipway" / "runs" / "run6" / "featurize" / "features"
    version = ModelVersion("films", "1", bundle, "", tags={"slipway.features": str(features)})
    monkeypatch.setattr(registry.Registry, "names", lambda _self: ["films"])
    monkeypatch.setattr(registry.Registry, "list", lambda _self, _name: [version])


def _arm(state: Path, version: str, bundle: str) -> Arm:
    return Arm(name=f"films-v{version}", model="films", version=version, bundle=state / "bundles" / "films" / bundle)


def old(project: Path, **options: Any) -> set[str]:
    found = find_old_state(load_project(project), **({"keep": 5, "older_than": 0.0} | options))
    return {str(one.path.relative_to(project / ".slipway")) for one in found}


def test_old_is_what_is_not_among_the_newest_and_what_nothing_refers_to(project: Path) -> None:
    # run6 holds the features of a registered version.
    assert old(project) == {
        "runs/run5",
        "cache/train/key5",
        "cache/train/key6",
        "bundles/films/loose",
        "serving/logs/gateway.log.1",
    }


def test_what_is_younger_than_asked_stays(project: Path) -> None:
    assert old(project, older_than=5.5 * DAY) == {"cache/train/key6"}
    assert old(project, keep=1, older_than=3.5 * DAY) == {
        "runs/run4", "runs/run5", "cache/train/key4", "cache/train/key5", "cache/train/key6",
    }  # fmt: skip


def test_half_written_folders_of_killed_processes_go(project: Path) -> None:
    folder = project / ".slipway" / "bundles" / "films" / ".incoming-123"
    folder.mkdir()
    assert "bundles/films/.incoming-123" in old(project)


def test_clean_shows_and_removes_only_with_yes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run5, key0 = project / ".slipway/runs/run5", project / ".slipway/cache/train/key0"
    assert run_command_line(["clean", "-f", str(project)]) == 0
    assert run_command_line(["clean", "-f", str(project), "--yes", "--dry-run"]) == 0
    assert run5.exists()
    assert "slipway clean --yes" in capsys.readouterr().err
    assert run_command_line(["clean", "-f", str(project), "--yes", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["path"] for row in rows} >= {"runs/run5", "bundles/films/loose"}
    assert all(row["removed"] for row in rows)
    assert not run5.exists()
    assert key0.exists()
    assert old(project) == set()


def test_clean_waits_for_no_run_and_says_who_is_at_work(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive_lock(project / ".slipway/run.lock", holder="run nightly", remedy=""):
        assert run_command_line(["clean", "-f", str(project), "--yes"]) == 1
    assert "locked by run nightly" in capsys.readouterr().err
    assert (project / ".slipway/runs/run5").exists()


def test_an_age_that_is_none_is_wrong_use(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["clean", "-f", str(project), "--older-than", "soon"]) == 2
    assert "soon" in capsys.readouterr().err


def test_a_file_with_links_that_stay_frees_nothing(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    (first / "both").write_bytes(b"x" * 100)
    os.link(first / "both", second / "both")
    (first / "stays").write_bytes(b"x" * 50)
    os.link(first / "stays", third / "stays")
    found = [OldState("run", folder, 0.0, "") for folder in (first, second)]
    assert sum(bytes_freed(found).values()) == 100
