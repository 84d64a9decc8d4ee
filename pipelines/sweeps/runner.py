"""Runs an Experiment on this machine: trials as processes, a few at a time, chosen by Optuna.

Everything that is known of a trial is in the sweep's SQLite database before anything follows from it, so a sweep that
is killed at any moment goes on with the trials that are missing. Trials end with the process that started them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.contracts.errors import EnvironmentProblemError
from slipway.pipelines.sweeps.median_stop import falls_behind, median_of_starts
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord, best_of
from slipway.pipelines.sweeps.search_space import settings_of
from slipway.pipelines.sweeps.study import SweepStudy
from slipway.pipelines.sweeps.trial_process import TrialProcess

if TYPE_CHECKING:
    from optuna.trial import Trial

Observe = Callable[[str, TrialRecord], None]
"""Called with "started" or "ended" and the trial."""

STUDY = "study.db"
TRIALS = "trials"
POLL_SECONDS = 0.1
_FAILED = ("Failed", "MetricsUnavailable")


@dataclass
class _Running:
    trial: Trial
    record: TrialRecord
    process: TrialProcess
    slot: int
    threshold: float | None


class SweepRunner:
    """One sweep on this machine.

    Args:
        document: The Experiment, as plain data.
        project: Name of the project.
        folder: Where database and trials are.
        observe: Told of each trial that starts or ends.
    """

    def __init__(self, document: Mapping[str, Any], project: str, folder: Path, observe: Observe) -> None:
        spec = document["spec"]
        self._document = document
        self._folder = folder
        self._observe = observe
        self._study = SweepStudy(folder / STUDY, document)
        self._most: int = spec["maxTrialCount"]
        self._parallel: int = spec["parallelTrialCount"]
        self._failures: int = spec["maxFailedTrialCount"]
        early = settings_of(spec.get("earlyStopping"))
        self._early = {
            "min_trials": int(early.get("min_trials_required", "3")),
            "start_step": int(early.get("start_step", "4")),
        }
        self._stops_early = spec.get("earlyStopping") is not None
        self._records: list[TrialRecord] = []
        self._running: list[_Running] = []
        self._lifeline = -1
        self.report = SweepReport(
            project=project,
            name=document["metadata"]["name"],
            directory=folder,
            metric=spec["objective"]["objectiveMetricName"],
            maximize=self._study.maximize,
            goal=spec["objective"].get("goal"),
            algorithm=spec["algorithm"]["algorithmName"],
            parameters=tuple(row["name"] for row in spec["parameters"]),
            max_trials=self._most,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def study(self) -> SweepStudy:
        """The trials in Optuna's storage."""
        return self._study

    def run(self) -> SweepReport:
        """Runs the trials that are missing and returns what became of all.

        Raises:
            EnvironmentProblemError: The disk is full, or the database cannot be written.
            KeyboardInterrupt: This process was interrupted; the trials that ran have been ended, and are begun again
                by the next call.
        """
        began = time.monotonic()
        reopened = self._study.reopen()
        self._records = self._study.records()
        if self._records or reopened:
            self.report.warnings.append(
                f"going on: {len(self._records)} trials were done before, {reopened} were cut off and begin again"
            )
        with self._written(), self._alive():
            while not self._is_over():
                self._start()
                time.sleep(POLL_SECONDS)
                self._reap()
            for running in self._running:
                running.process.end()
                self._close(running, "Killed")
        self.report.trials = sorted(self._records, key=lambda record: record.number)
        self.report.best = best_of(self._records, maximize=self.report.maximize)
        self.report.seconds = time.monotonic() - began
        return self.report

    @contextmanager
    def _written(self) -> Iterator[None]:
        from optuna.exceptions import StorageInternalError

        try:
            yield
        except (OSError, StorageInternalError) as error:
            raise EnvironmentProblemError(
                f"the sweep cannot go on: what it finds cannot be kept ({error.__cause__ or error})",
                where=str(self._folder),
                remedy="Free space or change the rights of the folder; the next slipway tune goes on from here.",
            ) from error

    @contextmanager
    def _alive(self) -> Iterator[None]:
        reading, writing = os.pipe()
        self._lifeline = reading
        try:
            yield
        finally:
            for running in self._running:
                running.process.end()
            self._running.clear()
            os.close(reading)
            os.close(writing)

    def _is_over(self) -> bool:
        """Says whether the sweep has ended, by Katib's conditions in Katib's order, and why."""
        report, best = self.report, best_of(self._records, maximize=self.report.maximize)
        failed = sum(record.status in _FAILED for record in self._records)
        reached = best is not None and best.value is not None and report.goal is not None and (
            best.value >= report.goal if report.maximize else best.value <= report.goal
        )  # fmt: skip
        if reached:
            return self._over("done", "ExperimentGoalReached", f"the goal of {report.goal:g} was reached")
        if failed >= self._failures:
            many = f"{failed} of {len(self._records)} trials failed"
            return self._over("failed", "ExperimentMaxFailedTrialsReached", f"{many}, and no more may")
        if len(self._records) >= self._most:
            reason, message = "ExperimentMaxTrialsReached", f"{len(self._records)} trials were done"
        elif not self._running and self._study.is_exhausted():
            reason, message = "ExperimentSuggestionEndReached", f"the algorithm has no trial after {len(self._records)}"
        else:
            return False
        if best is None:
            # Katib calls this a success; there is nothing that anybody could use.
            return self._over("failed", "ExperimentWithoutBestTrial", f"none of {len(self._records)} trials succeeded")
        return self._over("done", reason, message)

    def _over(self, status: str, reason: str, message: str) -> bool:
        self.report.status = "done" if status == "done" else "failed"
        self.report.reason, self.report.message = reason, message
        return True

    def _start(self) -> None:
        while len(self._running) < self._parallel and len(self._records) + len(self._running) < self._most:
            begun = self._study.next_trial()
            if begun is None:
                return
            trial, record, values = begun
            used = {running.slot for running in self._running}
            slot = next(number for number in range(self._parallel) if number not in used)
            process = TrialProcess(
                self._document,
                record.name,
                values,
                self._folder / TRIALS / record.name,
                cores=cores_of(slot, self._parallel),
                lifeline=self._lifeline,
            )
            record.log = process.log
            threshold = self._threshold() if self._stops_early else None
            self._running.append(_Running(trial, record, process, slot, threshold))
            self._observe("started", record)

    def _threshold(self) -> float | None:
        curves = [record.curve for record in self._records if record.status == "Succeeded"]
        return median_of_starts(curves, **self._early)

    def _reap(self) -> None:
        for running in list(self._running):
            process = running.process
            if process.poll():
                self._running.remove(running)
                self._close(running, "Failed" if process.error() is not None else "Succeeded")
            elif falls_behind(
                process.reports,
                running.threshold,
                start_step=self._early["start_step"],
                maximize=self.report.maximize,
            ):
                self._running.remove(running)
                process.end()
                self._close(running, "EarlyStopped")

    def _close(self, running: _Running, status: str) -> None:
        record, process = running.record, running.process
        record.seconds = time.monotonic() - process.started
        record.metrics = dict(process.metrics)
        record.curve = list(process.reports)
        record.value = process.reports[-1] if process.reports else None
        record.status = status  # type: ignore[assignment]
        if status == "Failed":
            record.error = process.error()
        elif status == "Succeeded" and record.value is None:
            record.status = "MetricsUnavailable"
            record.error = f"it ended well and printed no {self.report.metric}"
        self._study.tell(running.trial, record)
        self._records.append(record)
        shutil.rmtree(process.folder / "checkpoint", ignore_errors=True)
        self._observe("ended", record)


def cores_of(slot: int, parallel: int) -> Sequence[int]:
    """Returns the processors of one of several places for trials: a fair part each, one at least."""
    cores = sorted(os.sched_getaffinity(0))
    if parallel >= len(cores):
        return [cores[slot % len(cores)]]
    return cores[slot::parallel]
