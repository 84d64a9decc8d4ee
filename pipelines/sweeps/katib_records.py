"""What Katib says of an Experiment and its Trials, in the words of a sweep's report; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from slipway.components.tune.parameters import ParameterType, typed
from slipway.contracts.errors import UsageError
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord, TrialStatus, best_of

# A trial that failed is also said to have run: the last of these that holds is what became of it.
_CONDITIONS: tuple[TrialStatus, ...] = (
    "Running",
    "Succeeded",
    "MetricsUnavailable",
    "EarlyStopped",
    "Killed",
    "Failed",
)


def types_of(document: Mapping[str, Any]) -> dict[str, ParameterType]:
    """Returns the type of each parameter of an Experiment's search space."""
    return {row["name"]: row["parameterType"] for row in document["spec"]["parameters"]}


def holds(resource: Mapping[str, Any], condition: str) -> bool:
    """Says whether a condition of a resource is true."""
    rows = resource.get("status", {}).get("conditions") or ()
    return any(row["type"] == condition and row["status"] == "True" for row in rows)


def trial_records(document: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[TrialRecord]:
    """Returns the trials in the order in which they were made; without reasons, which only their pods know."""
    ordered = sorted(trials, key=lambda row: (row["metadata"]["creationTimestamp"], row["metadata"]["name"]))
    return [_record(document, trial, number) for number, trial in enumerate(ordered)]


def _record(document: Mapping[str, Any], trial: Mapping[str, Any], number: int) -> TrialRecord:
    status = trial.get("status", {})
    metric = document["spec"]["objective"]["objectiveMetricName"]
    texts = {row["name"]: row["value"] for row in trial["spec"].get("parameterAssignments") or ()}
    values = {row["name"]: _number(row) for row in (status.get("observation") or {}).get("metrics") or ()}
    known = {name: value for name, value in values.items() if value is not None}
    began, ended = _time(status.get("startTime")), _time(status.get("completionTime"))
    return TrialRecord(
        name=trial["metadata"]["name"],
        number=number,
        status=next((name for name in reversed(_CONDITIONS) if holds(trial, name)), "Running"),
        parameters=_typed(texts, types_of(document)),
        value=known.get(metric),
        metrics=known,
        seconds=None if began is None or ended is None else (ended - began).total_seconds(),
    )


def _typed(texts: dict[str, str], types: Mapping[str, ParameterType]) -> dict[str, Any]:
    try:
        return typed(texts, types)
    except UsageError:
        # The trial itself says what is wrong with them; here they are only shown.
        return dict(texts)


def _number(row: Mapping[str, Any]) -> float | None:
    # Every metric has the strategy `latest`; Katib writes "unavailable" for what it never got.
    try:
        value = float(row.get("latest", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))


def conclude(report: SweepReport, experiment: Mapping[str, Any]) -> bool:
    """Says whether an Experiment has ended, and writes into the report how; `report.trials` are filled in before.

    Success without a best trial is a failure: nobody could use it.
    """
    ended = next((name for name in ("Succeeded", "Failed") if holds(experiment, name)), None)
    if ended is None:
        return False
    status = experiment["status"]
    condition = next(row for row in status["conditions"] if row["type"] == ended)
    optimum = (status.get("currentOptimalTrial") or {}).get("bestTrialName") or ""
    known = {trial.name: trial for trial in report.trials if trial.value is not None}
    report.best = known.get(optimum) or best_of(report.trials, maximize=report.maximize)
    report.reason, report.message = condition.get("reason", ""), _message(report, condition)
    report.status = "done"
    if ended == "Failed":
        report.status = "failed"
    elif report.best is None:
        report.status = "failed"
        report.reason = "ExperimentWithoutBestTrial"
        report.message = f"none of {len(report.trials)} trials succeeded"
    began, done = _time(status.get("startTime")), _time(status.get("completionTime"))
    if began is not None and done is not None:
        report.seconds = (done - began).total_seconds()
    return True


def _message(report: SweepReport, condition: Mapping[str, Any]) -> str:
    failed = report.count("Failed", "MetricsUnavailable")
    texts = {
        "ExperimentGoalReached": f"the goal of {report.goal:g} was reached" if report.goal is not None else None,
        "ExperimentMaxTrialsReached": f"{len(report.trials)} trials were done",
        "ExperimentMaxFailedTrialsReached": f"{failed} of {len(report.trials)} trials failed, and no more may",
        "ExperimentSuggestionEndReached": f"the algorithm has no trial after {len(report.trials)}",
    }
    return texts.get(condition.get("reason", "")) or str(condition.get("message", "")) or "Katib gave no reason"
