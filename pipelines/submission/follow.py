"""Following a run until it ends, and saying why it failed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.wrapper import ERROR_MARK
from slipway.contracts.errors import StepError
from slipway.pipelines.submission.client import Object, PipelinesClient
from slipway.pipelines.submission.nodes import steps_of
from slipway.pipelines.submission.submit import FINISHED

POLL_SECONDS = 2.0

# What Kubeflow Pipelines' back end runs beside and inside of a task; attempts are numbered.
_INNER = re.compile(r"((^|-)driver|(^|-)executor|^root)(\(\d+\))?$")


class TaskReport(BaseModel):
    """One task of a run. `state` is as Kubeflow Pipelines calls it; SKIPPED is one taken from the cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    state: str
    seconds: float | None = None


class ClusterRunReport(BaseModel):
    """A run on a cluster. `error` is what the failed step itself said, if it could be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    version: str
    run: str
    run_id: str
    new: bool
    state: str
    tasks: tuple[TaskReport, ...] = ()
    failed_task: str | None = None
    error: dict[str, Any] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)

    def failure(self) -> StepError | None:
        """Returns the error with its exit code: 3 where a gate refused, else 1; None unless the run failed."""
        if self.state == "SUCCEEDED" or self.state not in FINISHED:
            return None
        cause = self.error or {}
        return StepError(
            cause.get("what") or f"the run ended as {self.state}",
            step=self.failed_task or self.run,
            remedy=cause.get("remedy") or f"Look at the log of run {self.run_id} in Kubeflow Pipelines.",
            cause=self.error,
            exit_code=3 if cause.get("exit_code") == 3 else 1,
        )


def follow(
    client: PipelinesClient,
    run_id: str,
    observe: Callable[[TaskReport], None] | None = None,
    *,
    poll_seconds: float = POLL_SECONDS,
) -> tuple[str, list[TaskReport], str | None, dict[str, Any] | None]:
    """Waits until a run has ended.

    Args:
        client: Kubeflow Pipelines.
        run_id: The run.
        observe: Called whenever a task's state changes.
        poll_seconds: Between two looks.

    Returns:
        The run's state, its tasks, the name of the first task that failed, and what that task said.
    """
    shown: dict[str, str] = {}
    while True:
        run = client.run(run_id)
        tasks = list(tasks_of(run))
        for task in tasks:
            if shown.get(task.task) != task.state:
                shown[task.task] = task.state
                if observe is not None:
                    observe(task)
        if run.get("state") in FINISHED:
            failed, error = failure_of(client, run)
            return str(run["state"]), tasks, failed, error
        time.sleep(poll_seconds)


def tasks_of(run: Object) -> Iterator[TaskReport]:
    """Yields the tasks of a run in the order in which they began; drivers and groups are left out."""
    pods = {step.name: step.attempts for step in steps_of(_all(run))}
    details = sorted(_details(run), key=lambda detail: str(detail.get("start_time") or ""))
    for detail in details:
        name, state = str(detail["display_name"]), str(detail.get("state", "PENDING"))
        if pods and name not in pods:
            continue
        # One that succeeded without a container had its outcome from the cache.
        cached = pods and not pods[name] and state == "SUCCEEDED"
        yield TaskReport(task=name, state="SKIPPED" if cached else state, seconds=_seconds(detail))


def failure_of(client: PipelinesClient, run: Object) -> tuple[str | None, dict[str, Any] | None]:
    """Returns the first task that failed, and the error that the step printed into its log."""
    steps = {step.name: list(reversed(step.attempts)) for step in steps_of(_all(run))}
    failed = [
        (detail, steps[str(detail["display_name"])] if steps else _pods(detail, run))
        for detail in _details(run)
        if detail.get("state") == "FAILED" and (not steps or str(detail["display_name"]) in steps)
    ]
    # A group fails with what is in it: the smallest is the step itself.
    failed.sort(key=lambda entry: (len(entry[1]), str(entry[0].get("end_time") or "")))
    for detail, pods in failed:
        for pod in pods:
            for line in reversed(client.log(str(run["run_id"]), pod).splitlines()):
                _, mark, content = line.partition(ERROR_MARK)
                if mark:
                    try:
                        return str(detail["display_name"]), dict(json.loads(content))
                    except (ValueError, TypeError):
                        continue
    if failed:
        message = (failed[0][0].get("error") or {}).get("message")
        return str(failed[0][0]["display_name"]), {"what": message} if message else None
    return None, None


def _all(run: Object) -> list[Object]:
    return list((run.get("run_details") or {}).get("task_details") or [])


def _details(run: Object) -> list[Object]:
    return [detail for detail in _all(run) if _is_task(detail, run)]


def _is_task(detail: Object, run: Object) -> bool:
    name = str(detail.get("display_name") or "")
    return bool(name) and name != run.get("display_name") and not _INNER.search(name)


def _pods(detail: Object, run: Object) -> list[str]:
    """Returns the pods of a task and of all that is in it, the last one first: the last attempt says why."""
    by_pod = {str(other["pod_name"]): other for other in _all(run) if other.get("pod_name")}
    found: dict[str, None] = {}
    waiting = [detail]
    while waiting:
        current = waiting.pop()
        names = [current.get("pod_name"), *(child.get("pod_name") for child in current.get("child_tasks") or ())]
        for name in map(str, filter(None, names)):
            if name not in found:
                found[name] = None
                waiting += [by_pod[name]] if name in by_pod else []
    return list(reversed(found))


def _seconds(detail: Object) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(str(detail[name])) for name in ("start_time", "end_time"))
    except (KeyError, ValueError):
        return None
    # What has not ended yet has the year 1970 as its end.
    return max((ended - began).total_seconds(), 0.0) if ended >= began else None
