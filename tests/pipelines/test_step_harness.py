"""A step called as a command: request in, result or error out, exit codes, time limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from slipway.components.harness import main
from slipway.components.progress import EventProgress, LogProgress, Progress
from slipway.contracts.errors import GateError


class Parameters(BaseModel):
    factors: int = 8


class AddRequest(BaseModel):
    left: float
    right: float = 0.0
    parameters: Parameters = Field(default_factory=Parameters)
    fail: str = ""


class AddResult(BaseModel):
    metrics: dict[str, float]


def add(request: AddRequest, progress: Progress) -> AddResult:
    progress.stage("adding", total=1)
    if request.fail == "refused":
        raise GateError("too small")
    if request.fail == "fault":
        raise KeyError("x")
    progress.advance()
    total = request.left + request.right + request.parameters.factors
    return AddResult(metrics={"total": total, "undefined": float("nan")})


def test_a_request_comes_from_a_file_and_from_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"left": 1, "right": 2}))
    arguments = ["--request", str(request), "--right=4", "--parameters.factors", "16", "--outcome", str(tmp_path)]
    assert main("add", AddRequest, add, arguments) == 0
    assert capsys.readouterr().out == "total=21.0\n", "finite metrics, as Katib's collector reads them"
    assert json.loads((tmp_path / "result.json").read_text()) == {"metrics": {"total": 21.0, "undefined": None}}


def test_failures_become_error_json_and_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = ["--outcome", str(tmp_path)]
    assert main("add", AddRequest, add, ["--left", "1", "--fail", "refused", *outcome]) == 3
    assert json.loads((tmp_path / "error.json").read_text())["what"] == "too small"
    assert main("add", AddRequest, add, ["--left", "1", "--fail", "fault", *outcome]) == 1
    assert "unexpected KeyError" in json.loads((tmp_path / "error.json").read_text())["what"]
    assert main("add", AddRequest, add, ["--left", "many", *outcome]) == 2
    assert main("add", AddRequest, add, [*outcome, "--left"]) == 2
    assert main("add", AddRequest, add, ["--left", "1", *outcome]) == 0
    assert not (tmp_path / "error.json").exists(), "a success takes the old error away"


def test_help_lists_the_fields_of_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main("add", AddRequest, add, ["--help"])
    assert "--left (required)" in capsys.readouterr().out


def test_work_past_its_limit_is_ended_even_inside_native_code(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pydantic import BaseModel; from slipway.components.harness import main\n"
        "class Request(BaseModel): pass\n"
        "def run(request, progress): time.sleep(600)\n"
        "sys.exit(main('sleep', Request, run, ['--timeout', '200ms', '--outcome', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "stopped after its limit" in json.loads((tmp_path / "error.json").read_text())["what"]


def test_progress_is_whole_lines_at_a_bounded_rate(tmp_path: Path) -> None:
    progress = EventProgress(tmp_path / "events.jsonl", "count")
    assert list(progress.track(range(1000), "counting")) == list(range(1000))
    progress.metric("loss", float("inf"))
    progress.metric("loss", 0.5)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    counts = [event for event in events if event["event"] == "progress"]
    assert (counts[0]["completed"], counts[-1]["completed"], counts[-1]["total"]) == (0, 1000, 1000)
    assert len(counts) < 100
    assert [event["value"] for event in events if event["event"] == "metric"] == [0.5]


def test_a_log_gets_stages_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LogProgress()
    progress.stage("reading", total=10)
    progress.note("a licence")
    assert capsys.readouterr().err == "reading 0/10\na licence\n"
