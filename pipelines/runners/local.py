"""Runs a pipeline on this machine: a worker process with kfp.local, followed by its events.

    report = run_job(job, observe)

Whatever happens to this process, no step outlives it: the steps are one process group, which is ended on the way out,
and which ends itself when this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipway.components.harness import ERROR_FILE
from slipway.components.wrapper import CACHE_VARIABLE, EVENTS_FILE, FORCED_VARIABLE, RUN_ID_VARIABLE, RUN_VARIABLE
from slipway.contracts.files import write_atomically
from slipway.pipelines.runners.interrupt import termination_as_interrupt
from slipway.pipelines.runners.job import RUN_FILE, Job, RunReport, StepReport

Observe = Callable[[dict[str, Any]], None]

PIPELINE_LOG = "pipeline.log"
GRACE_SECONDS = 5.0
POLL_SECONDS = 0.05


def run_job(job: Job, observe: Observe | None = None) -> RunReport:
    """Runs a job to its end and returns what became of each step; a failed step is in the report, not raised.

    Args:
        job: What to run.
        observe: Called with each event of a step: started, progress, note, metric, cached, finished, failed.

    Raises:
        KeyboardInterrupt: This process was interrupted or told to stop; the steps have been ended.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    report = RunReport(
        project=job.project,
        run_id=job.run_id,
        directory=job.directory,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        steps=[StepReport(step=step) for step in job.steps],
    )
    _save(report)
    started = time.monotonic()
    try:
        with termination_as_interrupt(), _worker(job) as worker:
            _follow(job, worker, report, observe)
        _conclude(job, report)
    except KeyboardInterrupt:
        report.status = "interrupted"
        raise
    finally:
        report.seconds = time.monotonic() - started
        _save(report)
        for folder in ("tmp", "kfp"):
            shutil.rmtree(job.directory / folder, ignore_errors=True)
    return report


def _save(report: RunReport) -> None:
    write_atomically(report.directory / RUN_FILE, report.model_dump_json(indent=2) + "\n")


@contextlib.contextmanager
def _worker(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """Starts the worker as the leader of its own group; on the way out the group is ended and nothing is left."""
    job_file = job.directory / "job.json"
    write_atomically(job_file, job.model_dump_json(indent=2) + "\n")
    temporary = job.directory / "tmp"
    temporary.mkdir(exist_ok=True)
    variables = {
        RUN_VARIABLE: str(job.directory),
        CACHE_VARIABLE: str(job.cache or ""),
        FORCED_VARIABLE: ",".join(job.forced),
        RUN_ID_VARIABLE: job.run_id,
        # kfp.local leaves a folder in the temporary folder for each task.
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
    }
    reading, writing = os.pipe()
    try:
        with (job.directory / PIPELINE_LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "slipway.pipelines.runners.worker", str(job_file), str(reading)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                pass_fds=[reading],
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _end_group(process)
    finally:
        os.close(reading)
        os.close(writing)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience
        while _group_lives(process) and time.monotonic() < deadline:
            time.sleep(0.01)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # a dead leader that nobody waited for counts as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _follow(job: Job, worker: subprocess.Popen[bytes], report: RunReport, observe: Observe | None) -> None:
    """Reads events until the worker ends, a step fails for good, or a step hangs beyond its own time limit."""
    events = _Tail(job.directory / EVENTS_FILE)
    deadlines: dict[str, tuple[float, int]] = {}
    while True:
        ended = worker.poll() is not None
        for event in events.read():
            _note(event, report, deadlines)
            if observe is not None:
                observe(event)
            if event["event"] == "failed" and event.get("final"):
                return
        if ended:
            return
        for deadline, process in deadlines.values():
            if time.monotonic() > deadline:
                # The step's own watchdog did not come to run: native code held the interpreter.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _note(event: dict[str, Any], report: RunReport, deadlines: dict[str, tuple[float, int]]) -> None:
    try:
        step = report.step(event["step"])
    except KeyError:
        return
    kind = event["event"]
    if kind == "started":
        step.attempts += 1
        step.status, step.error = "skipped", None
        step.log = report.directory / f"{step.step}.log"
        deadlines[step.step] = (time.monotonic() + event["timeout"] + GRACE_SECONDS, event["process"])
    elif kind in ("cached", "finished", "failed"):
        deadlines.pop(step.step, None)
        step.status = {"cached": "cached", "finished": "ran", "failed": "failed"}[kind]  # type: ignore[assignment]
        for field in ("seconds", "outputs", "fingerprints", "metrics", "result", "error"):
            if field in event:
                setattr(step, field, event[field])
        step.outputs = {name: Path(path) for name, path in step.outputs.items()}
        _save(report)


def _conclude(job: Job, report: RunReport) -> None:
    """Says what became of a step that ended without saying so itself, and of the run."""
    open_steps = [step for step in report.steps if step.status == "skipped"]
    failed = any(step.status == "failed" for step in report.steps)
    if open_steps and not failed:
        step = open_steps[0]
        step.status = "failed"
        if step.attempts == 0:
            step.log = job.directory / PIPELINE_LOG
            step.error = {"what": "it could not be started", "remedy": "The log says why.", "exit_code": 1}
        else:
            step.error = _error_of(job.directory / step.step / ERROR_FILE) or {
                "error": "StepError",
                "what": f"its process ended without an outcome (attempt {step.attempts})",
                "remedy": "It may have been killed for want of memory; see the log and the system's journal.",
                "exit_code": 1,
            }
    report.status = "failed" if any(step.status == "failed" for step in report.steps) else "done"


def _error_of(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content


class _Tail:
    """Reads the new whole lines of a file that other processes append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._position)
                content = handle.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
