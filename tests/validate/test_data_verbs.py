"""`slipway validate` and `slipway generate`, as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.cli.main import run_command_line

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: platform
data:
  interactions:
    source: data/interactions
    columns: {user: user_id, item: content_id, timestamp: timestamp}
  items: {source: data/content, columns: {item: content_id}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "slipway.yaml").write_text(PROJECT)
    sizes = ["--users", "200", "--content", "100", "--events", "2000", "--days", "7"]
    assert run_command_line(["generate", "platform", *sizes, "--out", str(folder / "data")]) == 0
    return folder


def test_generated_data_validates(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["validate", "-f", str(project), "-o", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert {table["name"]: table["rows"] for table in report["tables"]} == {"interactions": 2000, "items": 100}
    assert not (project / ".slipway").exists()


def test_failing_data_exits_1_with_what_where_and_how_many(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", "-f", str(project), "--set", "data.interactions.columns.rating=rating"]
    assert run_command_line(arguments) == 1
    error = capsys.readouterr().err
    assert "nulls, rating: " in error
    assert "of 2,000 rows in date=2025-" in error
    assert run_command_line([*arguments, "-o", "json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["passed"] is False
    assert json.loads(printed.err)["failures"][0]["check"] == "nulls"


def test_a_missing_column_is_told_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", "-f", str(project), "--set", "data.interactions.columns.item=contentid"]
    assert run_command_line(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Did you mean 'content_id'?" in error


def test_the_project_file_alone_can_be_checked(tmp_path: Path) -> None:
    (tmp_path / "slipway.yaml").write_text(PROJECT)
    assert run_command_line(["validate", "-f", str(tmp_path), "--no-data"]) == 0
    (tmp_path / "slipway.yaml").write_text(PROJECT.replace("timestamp: timestamp", "time: timestamp"))
    assert run_command_line(["validate", "-f", str(tmp_path), "--no-data"]) == 2


def test_an_existing_folder_is_a_mistake_of_use(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["generate", "platform", "--out", str(project / "data")]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_step_runs_as_a_program_of_its_own(project: Path, tmp_path: Path) -> None:
    data = "{interactions: {source: data/interactions, columns: {user: user_id, item: content_id}}}"
    arguments = ["--data", data, "--base", str(project), "--output", str(tmp_path / "dataset")]
    command = [sys.executable, "-m", "slipway.components.validate", "--outcome", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "interactions=2000.0" in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["interactions"] == 2000
