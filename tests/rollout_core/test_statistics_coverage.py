"""Coverage over all time, by the command that measures it, with few runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("benchmarks_coverage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("split", ["1:1", "1:9", "1:99", "1:99, 1:9, 1:1 in turn"])
@pytest.mark.parametrize(("rate", "swinging"), [(0.0, False), (1e-4, False), (0.01, True)])
def test_the_odds_ratio_is_covered(coverage: ModuleType, rate: float, swinging: bool, split: str) -> None:
    row = coverage.odds_ratios(150, 40, rate, 1.0, split, swinging=swinging)
    assert row.missed <= (0 if rate == 0 else 14)  # 15 of 150 would happen in one of 150 tests at 5 %.


@pytest.mark.parametrize("split", ["1:1", "1:99"])
def test_the_odds_ratio_of_a_common_event_is_covered(coverage: ModuleType, split: str) -> None:
    assert coverage.odds_ratios(60, 20, 0.5, 1.0, split, swinging=False).missed <= 7


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.5])
def test_a_rate_and_a_difference_of_rates_are_covered(coverage: ModuleType, rate: float) -> None:
    assert coverage.rates(150, 40, rate, swinging=False).missed <= 14
    for split in ("1:1", "1:9", "1:99"):
        assert coverage.differences(150, 40, rate, 0.0, split, swinging=False).missed <= 14


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.01, 0.5])
def test_a_tolerated_difference_is_rarely_called_harm_while_the_split_changes(
    coverage: ModuleType, rate: float
) -> None:
    row = coverage.harm_beyond(150, 60, rate, "1:99, 1:9, 1:1 in turn", swinging=rate == 0.01)
    assert row.missed <= 14


@pytest.mark.parametrize("law", ["all-or-nothing", "beta", "mostly zero"])
@pytest.mark.parametrize("split", ["1:1", "1:99"])
def test_a_difference_of_means_is_covered(coverage: ModuleType, law: str, split: str) -> None:
    assert coverage.mean_differences(150, 40, law, 0.0, split, swinging=False).missed <= 14


def test_a_difference_of_means_is_covered_while_level_and_split_change(coverage: ModuleType) -> None:
    row = coverage.mean_differences(150, 60, "mostly zero", 0.02, "1:99, 1:9, 1:1 in turn", swinging=True)
    assert row.missed <= 14


def test_users_counted_once_are_covered_where_their_requests_are_not(coverage: ModuleType) -> None:
    assert coverage.sticky_users(120, 60, "user").missed <= 12
    by_request = coverage.sticky_users(120, 60, "request")
    assert by_request.missed > 24
    assert not by_request.exact


def test_an_interval_made_for_a_single_look_is_seen_to_miss(
    coverage: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement has power: 95 % intervals by the normal law, looked at forty times, are missed far too often."""

    def for_one_look(bad: Any, n: Any, _alpha: float) -> tuple[Any, Any]:
        rate = bad / n
        width = 1.96 * np.sqrt(rate * (1 - rate) / n)
        return rate - width, rate + width

    monkeypatch.setattr(coverage, "rate_intervals", for_one_look)
    row = coverage.rates(150, 40, 0.5, swinging=False)
    assert row.missed > 22
    assert not row.plain()["holds"]


def test_the_command_prints_every_measurement_as_json_or_a_table(
    coverage: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["coverage.py", "--runs", "4", "--windows", "5"])
    coverage.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["sequence"] for row in rows} == {
        "odds ratio", "rate of one arm", "difference of rates", "harm beyond a difference", "difference of means",
        "equality of histograms", "stability index",
    }  # fmt: skip
    lines = coverage.table(rows).splitlines()
    assert len(lines) == 2 + len({(row["sequence"], row["conditions"]) for row in rows})
    assert sum(line.count(" % |") for line in lines) == len(rows)
