"""`slipway simulate`: what it prints, writes and refuses, and the error rates that it is there to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from slipway.cli.main import run_command_line
from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.cells import Cell
from slipway.serving.rollout.simulation.effects import parse_effect
from slipway.serving.rollout.simulation.grid import Grid
from slipway.serving.rollout.simulation.study import Study, conduct, specs_of
from slipway.serving.rollout.simulation.traffic import event_rates

QUICK = ["simulate", "--preset", "standard", "--rate", "200", "--runs", "20", "--check", "1", "--processes", "1"]
PROJECT = """
apiVersion: slipway.dev/v1alpha1
name: small
data:
  interactions:
    source: absent.parquet
    columns: {user: u, item: i, timestamp: t}
rollout:
  steps:
    - {weight: 20, minimum_dwell: 1m, deadline: 20m}
    - {weight: 100, minimum_dwell: 30s, minimum_samples: 0}
  guardrails:
    - {name: faults, kind: errors, margin: {odds_ratio: 2}}
  deadline: 30m
"""


def test_it_prints_every_cell_with_what_decide_says_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*QUICK, "--effect", "none", "--effect", "errors+10", "-o", "json"]) == 0
    captured = capsys.readouterr()
    cells = json.loads(captured.out)["cells"]
    assert [(cell["effect"], cell["harmful"], cell["taken_back"]) for cell in cells] == [
        ("none", False, 0.0),
        ("errors+10", True, 1.0),
    ]
    assert cells[0]["promoted"] == 1.0
    assert cells[0]["seconds_to_promotion"] >= 1200
    assert cells[1]["seconds_to_detection"] < 300 < cells[0]["seconds_to_promotion"]
    assert cells[1]["bad_requests"] > 0 == cells[0]["bad_requests"]
    assert all(cell["checked"] == 1 and cell["differences"] == [] for cell in cells)
    assert "2 rollouts" in captured.err
    assert "0 decided otherwise" in captured.err


def test_the_same_seed_gives_the_same_and_another_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in ("4", "4", "5"):
        assert run_command_line([*QUICK, "--effect", "errors+2", "--seed", seed, "-o", "json"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_the_policy_is_the_projects_and_overrides_reach_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slipway.yaml").write_text(PROJECT)
    command = ["simulate", "-f", str(tmp_path), "--rate", "100", "--effect", "faults+5", "--runs", "10", "--check", "0",
               "--processes", "1", "-o", "yaml"]  # fmt: skip
    assert run_command_line(command) == 0
    cell = yaml.safe_load(capsys.readouterr().out)["cells"][0]
    assert cell["taken_back"] == 1.0
    dry = "{name: faults, kind: errors, margin: {odds_ratio: 2}, dry_run: true}"
    clicks = "{name: clicks, kind: clicks, margin: {odds_ratio: 0.5}}"
    command += ["--set", f"rollout.guardrails=[{dry}, {clicks}]"]
    assert run_command_line(command) == 0
    assert yaml.safe_load(capsys.readouterr().out)["cells"][0]["promoted"] == 1.0


def test_a_policy_that_the_kernel_cannot_take_goes_through_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gated = PROJECT.replace("deadline: 20m}", "deadline: 20m, gate: true}")
    (tmp_path / "slipway.yaml").write_text(gated)
    command = ["simulate", "-f", str(tmp_path), "--rate", "50", "--effect", "none", "--runs", "2", "--processes", "1"]
    assert run_command_line([*command, "-o", "json"]) == 0
    captured = capsys.readouterr()
    assert "a gate" in captured.err
    assert json.loads(captured.out)["cells"][0]["promoted"] == 1.0


def test_peers_are_shown_and_calibrated_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "study.svg"
    command = [*QUICK, "--effect", "none", "--effect", "errors+5", "--compare", "--calibrate", "--plot", str(picture)]
    assert run_command_line([*command, "-o", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    cells = {(cell["method"], cell["calibrated"], cell["effect"]): cell for cell in content["cells"]}
    assert len(cells) == 14
    for found in content["calibrations"]:
        # Twenty equal candidates: none of them may be taken back at the setting that was found.
        assert found["reached"] == 0.0
        assert cells[found["method"], True, "none"]["taken_back"] <= 0.1
    assert cells["flagger", False, "errors+5"]["taken_back"] == 1.0
    assert cells["argo-rollouts", False, "errors+5"]["promoted"] < 1.0
    text = picture.read_text()
    assert text.startswith("<?xml")
    assert "200 requests/s" in text
    assert "flagger, calibrated" in text


def test_a_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*QUICK, "--effect", "errors+10"]) == 0
    printed = capsys.readouterr().out
    assert "taken back" in printed
    assert "100.00%" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--effect", "views+1"], "no guardrail 'views'"),
        (["--effect", "more errors"], "is not an effect"),
        (["--traffic", "weather"], "is not a kind of traffic"),
        (["--base", "clicks=often"], "is not NAME=RATE"),
        (["--base", "clicks=2"], "between 0 and 1"),
        (["--set", "rollout.alpha=0.1"], "--set changes a project file"),
        (["--plot", "study.txt"], "a picture ends in"),
        (["--plot", "absent/study.svg"], "no such folder"),
    ],
)
def test_wrong_use_says_what_is_wrong(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*QUICK, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_preset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["simulate", "--preset", "bold"]) == 2
    assert "standard" in capsys.readouterr().err


def test_looking_all_the_time_costs_a_z_test_its_level_and_the_policy_nothing() -> None:
    guardrails = [
        {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5}, "harm_from": 1.0},
        {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.8}, "harm_from": 1.0},
    ]
    policy = RolloutPolicy.model_validate({"preset": "standard", "guardrails": guardrails})
    study = Study(policy, event_rates(policy, {}), [parse_effect("none")], (20.0,), runs=300, compare=True, checked=0)
    cells: dict[str, Cell] = {cell.method: cell for cell in conduct(study, Grid(processes=1)).cells}
    # By the law of the binomial, 300 rollouts at 5 % give more than 28 once in a thousand times.
    assert cells["slipway"].taken_back <= 28 / 300
    assert cells["z-test"].taken_back > 0.3


def test_harm_that_begins_late_is_counted_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*QUICK, "--effect", "errors+10", "--healthy-for", "12m", "-o", "json"]
    assert run_command_line(command) == 0
    cell = json.loads(capsys.readouterr().out)["cells"][0]
    assert (cell["taken_back"], cell["too_early"]) == (1.0, 0.0)
    # Over two windows at half of the traffic, not after working off the good ones.
    assert 0 < cell["seconds_to_detection"] <= 150
    assert run_command_line([*QUICK, "--healthy-for", "soon"]) == 2


def test_windows_are_as_long_as_the_traffic_and_the_policy_let_them_be() -> None:
    windows = {}
    for preset in ("standard", "abTest"):
        policy = RolloutPolicy.model_validate({"preset": preset})
        study = Study(policy, event_rates(policy, {}), [parse_effect("none")], (1.0, 100.0))
        windows[preset] = [spec.traffic.window for spec in specs_of(study)]
    # A day in windows of 15 seconds is 5,760 looks; eight days have as many.
    assert windows == {"standard": [60, 15], "abTest": [120, 120]}
