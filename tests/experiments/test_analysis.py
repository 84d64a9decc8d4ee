"""A table of experiments, from files to discoveries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.cli.main import run_command_line
from slipway.contracts.errors import DataError, RefusedError, UsageError
from slipway.serving.experiments.analysis import ArmCounts, Window, analyse
from slipway.serving.experiments.definitions import load_counts, load_layers
from slipway.serving.experiments.layers import Experiment

HALVES = {"now": 50, "new": 50}
DEFINITIONS = """
salt: films-2026
experiments:
  - {name: warmer, layer: ranking, arms: {now: 50, warmer: 50}, buckets: [0, 500], changes: [temperature]}
  - {name: fresher, layer: ranking, arms: {fresher: 25, now: 50, freshest: 25}, control: now, buckets: [500, 900]}
  - {name: page, layer: page, arms: {now: 50, new: 50}}
"""
COUNTS = """experiment,window,arm,users,events
warmer,monday,now,5000,750
warmer,monday,warmer,5050,900
warmer,tuesday,now,5000,750
warmer,tuesday,warmer,5050,900
fresher,monday,now,5000,750
fresher,monday,fresher,2500,375
fresher,monday,freshest,2500,372
page,monday,now,5000,750
page,monday,new,6000,1200
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    definitions, counts = tmp_path / "experiments.yaml", tmp_path / "counts.csv"
    definitions.write_text(DEFINITIONS)
    counts.write_text(COUNTS)
    return definitions, counts


def test_from_files_to_discoveries(files: tuple[Path, Path]) -> None:
    layers = load_layers(files[0])
    results = {result.arm: result for result in analyse(load_counts(files[1], layers))}
    assert list(results) == ["warmer", "fresher", "freshest", "new"]
    warmer = results["warmer"]
    assert warmer.discovery
    assert (warmer.users, warmer.control_users) == (10_100, 10_000)
    assert warmer.rate == pytest.approx(1800 / 10_100)
    assert warmer.lift.lower < 0.188 < warmer.lift.upper
    assert warmer.lift.value == pytest.approx(0.188, abs=0.005)
    assert warmer.lift.lower > 0
    assert warmer.selected is not None
    assert warmer.selected.lower < warmer.lift.lower, "picked out of four, the interval must be wider"
    assert not results["fresher"].discovery
    assert results["fresher"].control == "now"
    assert results["fresher"].sample_ratio_holds


def test_a_mismatch_of_the_sample_ratio_voids_even_great_lifts(files: tuple[Path, Path]) -> None:
    new = analyse(load_counts(files[1], load_layers(files[0])))[-1]
    assert new.rate / new.control_rate > 1.3
    assert not new.sample_ratio_holds
    assert not new.discovery


def windows(rng: np.random.Generator, lift: float) -> list[Window]:
    return [
        {
            "now": ArmCounts(1000, int(rng.binomial(1000, 0.15))),
            "new": ArmCounts(1000, int(rng.binomial(1000, 0.15 * (1 + lift)))),
        }
        for _ in range(4)
    ]


def test_false_discoveries_stay_few_when_each_table_is_judged_at_every_window() -> None:
    rng = np.random.default_rng(11)
    experiments = [Experiment(f"e{index}", f"l{index}", HALVES) for index in range(20)]
    rates, found = [], 0
    for _ in range(15):
        data = [windows(rng, 0.4 if index < 4 else 0.0) for index in range(20)]
        for looks in range(1, 5):
            results = analyse([(e, w[:looks]) for e, w in zip(experiments, data, strict=True)], fdr=0.1)
            flags = [result.discovery for result in results]
            if any(flags):
                break
        rates.append(sum(flags[4:]) / max(1, sum(flags)))
        found += sum(flags[:4])
    assert np.mean(rates) <= 0.1
    assert found >= 15


def test_both_sides_and_one_side() -> None:
    rng = np.random.default_rng(12)
    data = [(Experiment("worse", "l", HALVES), windows(rng, -0.4))]
    assert analyse(data)[0].discovery
    assert analyse(data, alternative="lower")[0].discovery
    assert not analyse(data, alternative="higher")[0].discovery


def test_nothing_gives_nothing() -> None:
    assert analyse([]) == []
    (result,) = analyse([(Experiment("e", "l", HALVES), [])])
    assert not result.discovery
    assert result.users == 0


def test_counts_of_an_unknown_arm_are_refused() -> None:
    with pytest.raises(DataError, match="'other', which is none of its arms"):
        analyse([(Experiment("e", "l", HALVES), [{"other": ArmCounts(1, 0)}])])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("experiment,window,arm,users\n", "'events' is missing"),
        (COUNTS.replace("750", "7.5", 1), "line 2: users '5000' and events '7.5'"),
        (COUNTS.replace("750", "5001", 1), "line 2: 5001 events of 5000 users"),
        (COUNTS + "page,monday,now,1,1\n", "line 11: arm 'now' comes twice"),
        (COUNTS + "nowhere,monday,now,1,1\n", "'nowhere' is not defined"),
        (COUNTS + "page,tuesday\n", "line 11"),
    ],
)
def test_counts_that_cannot_be_are_refused_with_their_line(files: tuple[Path, Path], text: str, says: str) -> None:
    files[1].write_text(text)
    with pytest.raises(DataError) as caught:
        load_counts(files[1], load_layers(files[0]))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says", "kind"),
    [
        ("salt: [", "not YAML", UsageError),
        ("salt: s", "experiments", UsageError),
        (DEFINITIONS.replace("arms", "armz", 1), "experiments.0.arm", UsageError),
        (DEFINITIONS.replace("[0, 500]", "[0, 501]"), "would share users", RefusedError),
        (DEFINITIONS.replace("layer: page", "layer: page, changes: [temperature]"), "both change", RefusedError),
    ],
)
def test_definitions_that_cannot_be_are_refused(
    files: tuple[Path, Path], text: str, says: str, kind: type[Exception]
) -> None:
    files[0].write_text(text)
    with pytest.raises(kind) as caught:
        load_layers(files[0])
    assert says in str(caught.value)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run_command_line(["experiments", *arguments])
    text = capsys.readouterr().out
    return code, json.loads(text) if text.lstrip().startswith(("[", "{")) else text


def test_the_command(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    definitions, counts = map(str, files)
    code, rows = call(capsys, "analyse", definitions, counts, "-o", "json")
    assert code == 0
    assert [row["discovery"] for row in rows] == [True, False, False, False]
    code, text = call(capsys, "analyse", definitions, counts)
    assert code == 0
    assert "MISMATCH" in text
    code, rows = call(capsys, "assign", definitions, "user-42", "-o", "json")
    assert {row["experiment"]: row["arm"] for row in rows} == load_layers(files[0]).arms_of("user-42")
    code, rows = call(capsys, "check", definitions, "-o", "json")
    assert [row["buckets"] for row in rows] == ["0-1000", "0-500", "500-900"]
    code, rows = call(capsys, "plan", "--baseline", "0.15", "--lift", "0.1", "--users-per-day", "1000", "-o", "json")
    assert rows[0]["users"] == 18_514
    assert rows[0]["days"] == pytest.approx(18.514)
    assert rows[1]["users"] > rows[0]["users"]
    code, rows = call(capsys, "plan", "--baseline", "0.15", "--users", "18514", "-o", "json")
    assert rows[0]["lift"] == pytest.approx(0.1, abs=0.001)


def test_the_command_s_exit_codes(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "plan", "--baseline", "0.15")[0] == 2
    assert call(capsys, "plan", "--baseline", "1.5", "--lift", "0.1")[0] == 2
    files[0].write_text(DEFINITIONS.replace("[0, 500]", "[0, 501]"))
    assert call(capsys, "check", str(files[0]))[0] == 3
