"""An Experiment run here: trials are processes, every end is told as Katib tells it, and a kill loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from sweeps import X, toy_experiment

from slipway.contracts.errors import EnvironmentProblemError
from slipway.pipelines.sweeps import runner as runner_module
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord, katib_status
from slipway.pipelines.sweeps.runner import SweepRunner, cores_of
from slipway.pipelines.sweeps.search_space import as_text


def with_mode(*modes: str) -> dict[str, Any]:
    return {**X, "mode": {"type": "categorical", "values": list(modes)}}


def ignore(event: str, trial: TrialRecord) -> None:
    """Observes nothing."""


def container_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the container of the trial template, to be changed."""
    pod = document["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    found: dict[str, Any] = pod["containers"][0]
    return found


def in_a_process_of_its_own(work: Callable[[], object]) -> BaseProcess:
    """Starts a process that shares nothing but what is loaded already."""

    def interruptible() -> None:
        # A shell's background jobs, and all that they start, ignore interrupts unless told otherwise.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()

    process = multiprocessing.get_context("fork").Process(target=interruptible)
    process.start()
    return process


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "POLL_SECONDS", 0.02)


def sweep(document: Mapping[str, Any], folder: Path) -> tuple[SweepReport, list[tuple[str, int]]]:
    events: list[tuple[str, int]] = []
    runner = SweepRunner(document, "shop", folder, lambda event, trial: events.append((event, trial.number)))
    return runner.run(), events


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds:.0f} s"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child that nobody has waited for yet is no process any more.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_best_trial_is_the_one_with_the_best_objective(tmp_path: Path) -> None:
    report, events = sweep(toy_experiment(), tmp_path)
    assert (report.status, report.reason) == ("done", "ExperimentMaxTrialsReached")
    assert [trial.number for trial in report.trials] == list(range(6))
    assert report.best is not None
    nearest = min(report.trials, key=lambda trial: abs(trial.parameters["x"] - 3))
    assert report.best.name == nearest.name
    assert report.best.value == pytest.approx(-((nearest.parameters["x"] - 3) ** 2))
    assert report.best.metrics["mrr@5"] == pytest.approx(report.best.value / 2)
    assert events[:2] == [("started", 0), ("started", 1)]
    open_at_once = [sum(1 if event == "started" else -1 for event, _ in events[:end]) for end in range(len(events) + 1)]
    assert max(open_at_once) == 2
    again, events = sweep(toy_experiment(), tmp_path)
    assert events == []
    assert again.best == report.best


def test_more_trials_continue_a_sweep_and_other_seeds_are_another(tmp_path: Path) -> None:
    first, _ = sweep(toy_experiment(max_trials=2), tmp_path)
    longer, events = sweep(toy_experiment(max_trials=4), tmp_path)
    assert [trial.parameters for trial in longer.trials[:2]] == [trial.parameters for trial in first.trials]
    assert [number for event, number in events if event == "started"] == [2, 3]
    assert len({str(trial.parameters) for trial in longer.trials}) == 4


def test_the_threads_of_trials_beside_one_another_share_the_processors(tmp_path: Path) -> None:
    report, _ = sweep(toy_experiment(max_trials=2), tmp_path)
    available = len(os.sched_getaffinity(0))
    for trial in report.trials:
        threads, processors = (tmp_path / "trials" / trial.name / "threads").read_text().split()
        assert 1 <= int(threads) <= max(1, (available + 1) // 2)
        assert int(processors) <= available
    assert cores_of(0, 1) == sorted(os.sched_getaffinity(0))
    assert all(len(cores_of(slot, 64)) == 1 for slot in range(64))


def test_a_sweep_of_failures_fails_with_the_commonest_reason(tmp_path: Path) -> None:
    report, _ = sweep(toy_experiment(with_mode("fails", "silent"), max_failed_trials=3, parallel_trials=1), tmp_path)
    assert report.status == "failed"
    assert report.reason == "ExperimentMaxFailedTrialsReached"
    assert report.best is None
    assert len(report.trials) == 3
    error = report.error()
    assert error is not None
    assert error.exit_code == 1
    reasons = {trial.status: trial.error for trial in report.trials}
    assert set(reasons) <= {"Failed", "MetricsUnavailable"}
    assert reasons.get("Failed", "model.parameters: the toy broke") == "model.parameters: the toy broke"
    assert "printed no ndcg@5" in reasons.get("MetricsUnavailable", "printed no ndcg@5") or ""
    assert any(str(reason) in str(error) for reason in reasons.values())


def test_some_failures_do_not_end_a_sweep(tmp_path: Path) -> None:
    report, _ = sweep(toy_experiment(with_mode("well", "fails"), max_trials=8, max_failed_trials=8), tmp_path)
    assert report.status == "done"
    assert report.count("Failed") >= 1
    assert report.best is not None
    assert report.best.parameters["mode"] == "well"
    assert report.error() is None


def test_a_sweep_without_a_best_trial_failed_though_no_limit_was_reached(tmp_path: Path) -> None:
    # Every trial is stopped early, which Katib counts as a success of the sweep.
    document = toy_experiment(max_trials=2, early_stopping={"name": "medianstop", "min_trials": 1, "start_step": 1})
    runner = SweepRunner(document, "shop", tmp_path, ignore)
    runner._threshold = lambda: 1e9  # type: ignore[method-assign]
    container_in(document)["command"] = [
        sys.executable,
        "-c",
        "import time; print('ndcg@5=0.1', flush=True); time.sleep(60)",
    ]
    report = runner.run()
    assert [trial.status for trial in report.trials] == ["EarlyStopped"] * 2
    assert (report.status, report.reason) == ("failed", "ExperimentWithoutBestTrial")


def test_trials_that_fall_behind_the_median_end_early(tmp_path: Path) -> None:
    document = toy_experiment(
        {"x": {"type": "discrete", "values": [2.9, 3.0, 3.1, -5.0]}},
        max_trials=4,
        parallel_trials=1,
        algorithm="grid",
        early_stopping={"name": "medianstop", "min_trials": 3, "start_step": 4},
    )
    variables = container_in(document)["env"]
    given = next(row for row in variables if row["name"] == "SLIPWAY_TRIAL_PARAMETERS")
    given["value"] = '{"x": "${trialParameters.x}", "mode": "curve"}'
    began = time.monotonic()
    report, _ = sweep(document, tmp_path)
    assert [trial.status for trial in report.trials] == ["Succeeded"] * 3 + ["EarlyStopped"]
    assert time.monotonic() - began < 40
    assert len(report.trials[0].curve) == 5
    assert len(report.trials[3].curve) == 4
    assert report.best is not None
    assert report.best.parameters["x"] == "3.0"


def test_a_goal_ends_the_sweep_and_what_still_runs(tmp_path: Path) -> None:
    document = toy_experiment(
        {"x": {"type": "discrete", "values": [3.0, 2.0]}, "mode": {"type": "categorical", "values": ["well", "hangs"]}},
        algorithm="grid", max_trials=4, objective={"metric": "ndcg@5", "goal": -0.5},
    )  # fmt: skip
    report, _ = sweep(document, tmp_path)
    assert (report.status, report.reason) == ("done", "ExperimentGoalReached")
    assert {trial.status for trial in report.trials} == {"Succeeded", "Killed"}
    assert not any(lives(int((tmp_path / "trials" / trial.name / "pid").read_text())) for trial in report.trials)


def test_a_trial_that_hangs_ends_at_its_limit(tmp_path: Path) -> None:
    modes = {**X, "mode": {"type": "categorical", "values": ["hangs", "hangs too"]}}
    document = toy_experiment(modes, max_trials=1, trial={"timeout": "1s"})
    container_in(document)["command"] = [sys.executable, "-c", "import time; time.sleep(60)"]
    report, _ = sweep(document, tmp_path)
    assert report.trials[0].error == "it ran past its time limit (sweep.trial.timeout)"
    assert (report.trials[0].seconds or 0) < 20


def test_a_killed_trial_is_told_by_its_signal(tmp_path: Path) -> None:
    document = toy_experiment(max_trials=1)
    container_in(document)["command"] = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    report, _ = sweep(document, tmp_path)
    assert report.trials[0].error == "its process was ended by SIGKILL"


@pytest.mark.parametrize("algorithm", ["random", "grid"])
def test_a_killed_sweep_goes_on_with_the_trials_that_are_missing(tmp_path: Path, algorithm: str) -> None:
    gate, folder = tmp_path / "gate", tmp_path / "sweep"
    folder.mkdir()
    space = {"x": {"type": "double", "min": 0, "max": 5, "step": 1}} if algorithm == "grid" else X
    document = toy_experiment(space, {"TOY_GATE": str(gate)}, algorithm=algorithm)
    # Two trials end, two wait at the gate; then the sweep is killed.
    gate.touch()
    trials = folder / "trials"
    sweeper = in_a_process_of_its_own(lambda: sweep(document, folder))
    try:
        wait_until(lambda: len(list(trials.glob("*/pid"))) >= 2, "two trials")
        gate.unlink()
        wait_until(lambda: len(list(trials.glob("*/pid"))) >= 4, "two more trials")
        pids = [int(path.read_text()) for path in trials.glob("*/pid")]
        wait_until(lambda: sum(lives(pid) for pid in pids) == 2, "two trials that wait")
    finally:
        sweeper.kill()
        sweeper.join()
    wait_until(lambda: not any(lives(pid) for pid in pids), "the end of the trials of a killed sweep")
    before = {path.parent.name: path.read_text() for path in trials.glob("*/pid")}
    gate.touch()
    report, events = sweep(document, folder)
    assert report.status == "done"
    assert [trial.number for trial in report.trials] == list(range(6))
    begun = [number for event, number in events if event == "started"]
    assert len(begun) == 4
    again = [trial for trial in report.trials if trial.attempts == 2]
    assert len(again) == 2
    assert {trial.number for trial in again} < set(begun)
    assert all(trial.name in before for trial in again)
    assert len({str(trial.parameters) for trial in report.trials}) == 6
    assert any("2 were cut off" in warning for warning in report.warnings)


def test_a_kill_between_any_two_writes_loses_no_number(tmp_path: Path) -> None:
    """Takes the process away after each single write to the storage, until the sweep has come through."""
    from optuna.storages import RDBStorage

    document = toy_experiment(max_trials=3, parallel_trials=1)

    def until(writes: int) -> None:
        left = writes

        def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                answer = inner(*arguments, **named)
                left -= 1
                if left == 0:
                    os._exit(7)
                return answer

            return call

        for name in ("create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_state_values"):
            setattr(RDBStorage, name, counted(getattr(RDBStorage, name)))
        sweep(document, tmp_path)

    kills = 0
    for writes in (*range(1, 8), 12, 1000):
        process = in_a_process_of_its_own(partial(until, writes))
        process.join()
        kills += process.exitcode == 7
        if process.exitcode == 0:
            break
    assert kills >= 4
    report, events = sweep(document, tmp_path)
    assert report.status == "done"
    assert [trial.number for trial in report.trials] == [0, 1, 2]
    assert all(trial.status == "Succeeded" for trial in report.trials)
    assert events == []


def test_an_interrupted_sweep_ends_its_trials_and_keeps_what_was_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    document = toy_experiment(environment={"TOY_GATE": str(tmp_path / "never")})
    sweeper = in_a_process_of_its_own(lambda: sweep(document, folder))
    wait_until(lambda: len(list(folder.glob("trials/*/pid"))) == 2, "two trials")
    pids = [int(path.read_text()) for path in folder.glob("trials/*/pid")]
    assert sweeper.pid is not None
    os.kill(sweeper.pid, signal.SIGINT)
    sweeper.join(60)
    assert sweeper.exitcode not in (None, 0)
    wait_until(lambda: not any(lives(pid) for pid in pids), "the end of the trials")


def test_a_database_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(EnvironmentProblemError, match="cannot be read") as caught:
        sweep(toy_experiment(), tmp_path)
    assert "begin this sweep anew" in str(caught.value)


def test_hyperband_gives_the_best_more(tmp_path: Path) -> None:
    space = {**X, "epochs": {"type": "int", "min": 1, "max": 4}}
    own = {"name": "hyperband", "resource": "epochs", "maximum_resource": 4, "eta": 2}
    report, _ = sweep(toy_experiment(space, algorithm=own, max_trials=50, parallel_trials=4), tmp_path)
    assert report.reason == "ExperimentSuggestionEndReached"
    first = report.trials[:4]
    assert {trial.parameters["epochs"] for trial in first} == {1}
    best = sorted(first, key=lambda trial: -(trial.value or 0))[:2]
    second = report.trials[4:6]
    assert {trial.parameters["epochs"] for trial in second} == {2}
    assert {trial.parameters["x"] for trial in second} == {trial.parameters["x"] for trial in best}
    assert len(report.trials) == 4 + 2 + 1 + 3 + 2 + 3


def test_the_result_has_katibs_form(tmp_path: Path) -> None:
    report, _ = sweep(toy_experiment(max_trials=2), tmp_path)
    from kubeflow_katib_api.models.v1beta1_experiment_status import V1beta1ExperimentStatus

    content = katib_status(report, {trial.name: as_text(trial.parameters) for trial in report.trials})
    status = V1beta1ExperimentStatus.from_dict(content)
    assert status is not None
    assert (status.trials, status.trials_succeeded) == (2, 2)
    assert status.current_optimal_trial is not None
    assert report.best is not None
    assert status.current_optimal_trial.best_trial_name == report.best.name
    assert isinstance(report.trials[0], TrialRecord)


@pytest.mark.parametrize("fault", ["database", "folder"])
def test_a_full_disk_is_told_and_the_sweep_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    document = toy_experiment(max_trials=2)
    if fault == "folder":
        (tmp_path / "trials").write_text("a file where a folder must be")
    else:
        from optuna.exceptions import StorageInternalError
        from optuna.storages import RDBStorage

        def full(*arguments: Any, **named: Any) -> None:
            raise StorageInternalError("flush") from OSError(28, "No space left on device")

        monkeypatch.setattr(RDBStorage, "set_trial_state_values", full)
    with pytest.raises(EnvironmentProblemError, match="No space left|Not a directory|File exists"):
        sweep(document, tmp_path)
    monkeypatch.undo()
    if fault == "folder":
        (tmp_path / "trials").unlink()
    report, _ = sweep(document, tmp_path)
    assert [trial.status for trial in report.trials] == ["Succeeded"] * 2
