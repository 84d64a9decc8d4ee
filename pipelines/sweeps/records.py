"""What became of a sweep and of its trials, in Katib's words; the same for both planes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway.contracts.errors import StepError

TrialStatus = Literal["Running", "Succeeded", "EarlyStopped", "Failed", "MetricsUnavailable", "Killed"]
"""Katib's conditions of a trial. Killed: it was ended because the sweep had what it looked for."""

SweepStatus = Literal["running", "done", "failed", "interrupted"]


class TrialRecord(BaseModel):
    """One trial. `value` is that of the objective, `curve` what was reported of it in order, its end included.

    `attempts` counts the starts: a trial that a killed sweep left is started again under its name. `log` is its output.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    number: int
    status: TrialStatus
    parameters: dict[str, Any]
    value: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    curve: list[float] = Field(default_factory=list)
    seconds: float | None = None
    attempts: int = 1
    error: str | None = None
    log: Path | None = None


class SweepReport(BaseModel):
    """What became of a sweep. `reason` is one of Katib's; `parameters` are those of the search space, in order.

    `baseline` is what the project's own parameters reach on the data that the trials chose on.
    """

    model_config = ConfigDict(extra="forbid")

    project: str
    name: str
    directory: Path
    status: SweepStatus = "running"
    reason: str = ""
    message: str = ""
    metric: str
    maximize: bool
    goal: float | None = None
    algorithm: str
    parameters: tuple[str, ...]
    max_trials: int
    started: str
    seconds: float | None = None
    trials: list[TrialRecord] = Field(default_factory=list)
    best: TrialRecord | None = None
    baseline: TrialRecord | None = None
    artifact: Path | None = None
    page: Path | None = None
    warnings: list[str] = Field(default_factory=list)

    def count(self, *statuses: TrialStatus) -> int:
        """Returns how many trials are in one of these states."""
        return sum(trial.status in statuses for trial in self.trials)

    def improves(self) -> bool:
        """Says whether the best trial is better than the project's own parameters; also where these are not known."""
        if self.best is None or self.best.value is None:
            return False
        if self.baseline is None or self.baseline.value is None:
            return True
        own = self.baseline.value
        return self.best.value > own if self.maximize else self.best.value < own

    def error(self) -> StepError | None:
        """Returns why the sweep failed; None if it did not."""
        if self.status != "failed":
            return None
        why = commonest_error(self.trials)
        failed = next((trial for trial in self.trials if trial.error == why), None)
        return StepError(
            f"{self.message}; the commonest reason: {why}" if why else self.message,
            step="tune",
            log=str(failed.log) if failed is not None and failed.log is not None else None,
            remedy="Change the part `sweep:` of the project file, or what the reason names; if nothing changes in the "
            "file, begin anew with: slipway tune --restart.",
        )


def best_of(trials: Sequence[TrialRecord], *, maximize: bool) -> TrialRecord | None:
    """Returns the best trial that succeeded, the first of equals; None if none did."""
    done = [trial for trial in trials if trial.status == "Succeeded" and trial.value is not None]
    if not done:
        return None
    sign = -1.0 if maximize else 1.0
    return min(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def commonest_error(trials: Sequence[TrialRecord]) -> str | None:
    """Returns the reason for which most trials failed; None if none failed."""
    reasons = Counter(
        trial.error for trial in trials if trial.status in ("Failed", "MetricsUnavailable") and trial.error
    )
    return reasons.most_common(1)[0][0] if reasons else None


def katib_status(report: SweepReport, texts: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Returns the report as the `status` of a Katib Experiment.

    Args:
        report: What became of the sweep.
        texts: Trial -> parameter -> the text that it was given.
    """
    kinds = {
        "Succeeded": ("trialsSucceeded", "succeededTrialList"),
        "Failed": ("trialsFailed", "failedTrialList"),
        "EarlyStopped": ("trialsEarlyStopped", "earlyStoppedTrialList"),
        "MetricsUnavailable": ("trialMetricsUnavailable", "metricsUnavailableTrialList"),
        "Killed": ("trialsKilled", "killedTrialList"),
        "Running": ("trialsRunning", "runningTrialList"),
    }
    content: dict[str, Any] = {
        "conditions": [
            {
                "type": {"done": "Succeeded", "failed": "Failed"}.get(report.status, "Running"),
                "status": "True",
                "reason": report.reason,
                "message": report.message,
            }
        ],
        "startTime": report.started,
        "trials": len(report.trials),
    }
    for status, (count, names) in kinds.items():
        found = [trial.name for trial in report.trials if trial.status == status]
        if found:
            content |= {count: len(found), names: found}
    if report.best is not None:
        content["currentOptimalTrial"] = {
            "bestTrialName": report.best.name,
            "parameterAssignments": [{"name": name, "value": value} for name, value in texts[report.best.name].items()],
            "observation": {
                # Every metric is told once, when the trial ends.
                "metrics": [
                    {"name": name, "latest": repr(value), "min": repr(value), "max": repr(value)}
                    for name, value in report.best.metrics.items()
                ]
            },
        }
    return content
