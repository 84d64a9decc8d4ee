"""The local runner: what is cached, what is tried again, what a failure says, and that nothing is left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slipway.pipelines.runners.job import Job
from slipway.pipelines.runners.local import run_job

MakeJob = Callable[..., Job]


def statuses(report: Any) -> list[str]:
    return [step.status for step in report.steps]


def test_a_second_run_comes_from_the_cache_even_when_the_first_runs_folder_is_gone(
    toy_job: MakeJob, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    first = run_job(toy_job("a"), events.append)
    assert (first.status, statuses(first)) == ("done", ["ran", "ran"])
    assert first.step("double").metrics == {"total": 80.0}
    assert first.step("count").metrics == {"count": 3.0}, "a number that is not finite is left out"
    assert "counting" in (tmp_path / "runs" / "a" / "count.log").read_text()
    assert next(event["event"] for event in events if event["step"] == "count") == "started"
    assert not list((tmp_path / "runs" / "a").glob("tmp*"))
    shutil.rmtree(tmp_path / "runs" / "a")

    second = run_job(toy_job("b"))
    assert statuses(second) == ["cached", "cached"]
    assert second.step("double").fingerprints == first.step("double").fingerprints
    assert (tmp_path / "runs" / "b" / "double" / "doubled" / "total.txt").read_text() == "80"
    assert second.step("double").result["output"] == str(tmp_path / "runs" / "b" / "double" / "doubled")


def test_a_refused_step_is_not_tried_again_and_keeps_its_exit_code(toy_job: MakeJob) -> None:
    report = run_job(toy_job("a", count={"number": 3, "troubles": ["refuse"]}, retries=3))
    assert (report.status, statuses(report)) == ("failed", ["failed", "skipped"])
    assert report.step("count").attempts == 1
    error = report.error()
    assert error is not None
    assert error.exit_code == 3
    assert "Choose a greater one." in str(error)
    assert str(report.step("count").log) in str(error)


def test_faults_that_may_pass_are_tried_again_and_each_is_named(toy_job: MakeJob, tmp_path: Path) -> None:
    settings = {"number": 3, "troubles": ["surprise", "hang", "crash"], "marker": str(tmp_path / "marker")}
    failed = run_job(toy_job("a", count=settings, retries=2, timeout="300ms"))
    assert (statuses(failed), failed.step("count").attempts) == (["failed", "skipped"], 3)
    assert "ended without an outcome (attempt 3)" in str(failed.error())
    log = Path(str(failed.step("count").log)).read_text()
    assert "unexpected ZeroDivisionError" in log
    assert "Traceback" in log
    assert "stopped after its limit" in log
    assert "steps.count.timeout" in log, "it says which setting would help"

    recovered = run_job(toy_job("b", count=settings))
    assert statuses(recovered) == ["ran", "ran"]


def test_no_step_outlives_a_run_that_is_told_to_stop_or_killed(toy_job: MakeJob, tmp_path: Path) -> None:
    program = (
        "import sys; from slipway.pipelines.runners.job import Job\n"
        "from slipway.pipelines.runners.local import run_job\n"
        "run_job(Job.model_validate_json(open(sys.argv[1]).read()))"
    )
    runners = {}
    for run_id in ("stopped", "killed"):
        file = tmp_path / f"{run_id}.json"
        file.write_text(toy_job(run_id, double={"seconds": 600}).model_dump_json())
        runners[run_id] = subprocess.Popen([sys.executable, "-c", program, str(file)], stderr=subprocess.DEVNULL)
    for run_id, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        log = tmp_path / "runs" / run_id / "double.log"
        _until(log.exists, "the second step started")
        runners[run_id].send_signal(number)
        assert runners[run_id].wait(timeout=20) != 0
        _until(lambda run_id=run_id: not _processes_with(f"runs/{run_id}/"), "its processes are gone")


def _until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def _processes_with(text: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            variables = (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if state != "Z" and int(process.name) != os.getpid() and f"{text}" in variables + "/":
            found.append(process.name)
    return found
