"""`slipway doctor` names what is missing and the command that gets it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from slipway.cli import doctor as module
from slipway.cli.main import run_command_line

PROJECT = """
apiVersion: slipway.dev/v1alpha1
name: films
data: {interactions: {source: ratings.parquet, columns: {user: u, item: i, timestamp: t}}}
"""


def test_on_a_machine_that_has_everything_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["doctor", "-f", str(tmp_path), "-o", "json"]) == 0
    states = {row["check"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    for check in ("python", "disk", "redis-server", "prometheus", "traefik", "extra serve"):
        assert states[check] == "ok"


def test_a_missing_program_fails_with_the_command_that_gets_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command_line(["doctor", "-f", str(tmp_path), "-o", "json"]) == 1
    answer = capsys.readouterr()
    rows = {row["check"]: row for row in json.loads(answer.out)}
    assert rows["redis-server"]["state"] == "missing"
    assert rows["redis-server"]["remedy"].startswith("apt-get install redis-server")
    assert "redis-server" in answer.err


def test_a_missing_extra_names_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in ("kserve", "torch") else real(name))
    findings = {finding.check: finding for finding in module.examine(tmp_path / "slipway.yaml")}
    assert (findings["extra serve"].state, findings["extra serve"].remedy) == (
        "missing",
        "pip install 'slipway[serve]'",
    )
    assert findings["extra neural"].state == "optional"


def test_a_wanted_port_in_use_and_a_broken_project_file_are_told(tmp_path: Path) -> None:
    file = tmp_path / "slipway.yaml"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        file.write_text(PROJECT + f"serving: {{ports: {{gateway: {port}}}}}\n")
        findings = {finding.check: finding for finding in module.examine(file)}
    assert findings[f"port {port}"].state == "missing"
    assert "held by" in findings[f"port {port}"].found
    file.write_text(PROJECT + "servinng: {}\n")
    findings = {finding.check: finding for finding in module.examine(file)}
    assert findings["project"].state == "missing"
    assert "servinng" in findings["project"].found
