"""The project's own parameters, measured as a trial is, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import TOY, toy_experiment

from slipway.pipelines.sweeps.baseline import measure_baseline
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord

OWN = "import json, os; assert os.environ['SLIPWAY_TRIAL_PARAMETERS'] == '{}'; "
OWN += "assert json.loads(os.environ['SLIPWAY_TRIAL_REQUEST'])['types'] == {}; print('ndcg@5=-4.0')"


def with_command(*command: str) -> dict[str, object]:
    document = toy_experiment()
    pod = document["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    pod["containers"][0]["command"] = ["python", *command]
    return document


def test_the_baseline_is_a_trial_without_search_and_is_kept(tmp_path: Path) -> None:
    record = measure_baseline(with_command("-c", OWN), tmp_path)
    assert (record.status, record.value) == ("Succeeded", -4.0)
    assert measure_baseline(with_command("-c", "raise SystemExit(1)"), tmp_path) == record


def test_a_baseline_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    # The toy finds no value for x there, and ends with a traceback.
    record = measure_baseline(with_command(str(TOY)), tmp_path)
    assert record.status == "Failed"
    assert record.error is not None
    assert measure_baseline(with_command("-c", OWN), tmp_path).value == -4.0


@pytest.mark.parametrize(
    ("best", "own", "maximize", "improves"),
    [(0.2, 0.1, True, True), (0.1, 0.1, True, False), (0.1, 0.2, False, True), (0.1, None, True, True),
     (None, 0.1, True, False)],
)  # fmt: skip
def test_a_sweep_improves_where_its_best_trial_is_better(
    best: float | None, own: float | None, maximize: bool, improves: bool
) -> None:
    def trial(value: float) -> TrialRecord:
        return TrialRecord(name="t", number=0, status="Succeeded", parameters={}, value=value)

    report = SweepReport(
        project="p", name="n", directory=Path(), metric="m", maximize=maximize, algorithm="tpe", parameters=(),
        max_trials=1, started="", best=None if best is None else trial(best),
        baseline=None if own is None else trial(own),
    )  # fmt: skip
    assert report.improves() is improves
