"""One run for one submission, however often it is submitted; and recurring runs as they are declared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from slipway.pipelines.submission.client import Object, PipelinesClient

FINISHED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
SCHEDULED = "@scheduled"

Overlap = Literal["forbid", "replace", "allow"]


@dataclass(frozen=True)
class Submission:
    """What to run. `parameters` are those of the pipeline; `pipeline_root` is where its artifacts go."""

    pipeline: str
    version: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pipeline_root: str | None = None
    service_account: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The run of a submission. `new` says whether this submission made it; `reason` why there is none."""

    name: str
    run_id: str | None
    new: bool
    reason: str = ""


def submit(client: PipelinesClient, submission: Submission, name: str) -> Outcome:
    """Starts the run called `name`, or finds it.

    Two that submit the same at the same moment both see no run; the younger of their runs is ended and archived, and
    both return the older one.

    Args:
        client: Kubeflow Pipelines.
        submission: What to run.
        name: The run's name; the same name is the same run.

    Raises:
        ServiceError: The API does not answer, or does not know the version.
    """
    found = client.runs_named(name)
    if found:
        return Outcome(name, str(found[0]["run_id"]), new=False)
    made = client.create_run(name, **_source(client, submission))
    own = str(made["run_id"])
    runs = client.runs_named(name)
    # Times have whole seconds: of two runs of the same one, the smaller id is taken by both.
    first = min(runs, key=lambda run: (str(run.get("created_at", "")), str(run["run_id"])), default=made)
    if str(first["run_id"]) != own:
        client.terminate(own)
        client.archive(own)
        return Outcome(name, str(first["run_id"]), new=False)
    return Outcome(name, own, new=True)


def submit_scheduled(
    client: PipelinesClient,
    submission: Submission,
    prefix: str,
    due: datetime,
    *,
    overlap: Overlap,
    maximum_concurrency: int = 1,
) -> Outcome:
    """Starts the run of a schedule that was due at a time, or finds it, or leaves it out because others still go on.

    Args:
        client: Kubeflow Pipelines.
        submission: What to run; a parameter whose value is `@scheduled` becomes the time in ISO 8601.
        prefix: Names the schedule; the run's name is this and the time.
        due: For when the run was planned.
        overlap: What to do about unfinished runs of the same schedule.
        maximum_concurrency: How many may go on with `allow`.
    """
    name = f"{prefix}-{due.astimezone(UTC):%Y%m%d%H%M%S}"
    others = [
        run
        for run in client.runs_of_schedule(prefix)
        if run.get("state") not in FINISHED and run["display_name"] != name
    ]
    if not client.runs_named(name):
        allowed = maximum_concurrency if overlap == "allow" else 1
        if overlap == "replace":
            for run in others:
                client.terminate(str(run["run_id"]))
        elif len(others) >= allowed:
            going = ", ".join(sorted(str(run["display_name"]) for run in others))
            return Outcome(name, None, new=False, reason=f"left out, as {going} still goes on")
    moment = due.astimezone(UTC).isoformat()
    parameters = {key: moment if value == SCHEDULED else value for key, value in submission.parameters.items()}
    return submit(
        client,
        Submission(
            submission.pipeline,
            submission.version,
            parameters,
            submission.pipeline_root,
            submission.service_account,
        ),
        name,
    )


def due_of_job(name: str) -> datetime | None:
    """Returns the time for which a CronJob made the Job of this name: its suffix counts minutes since 1970."""
    match = re.search(r"-(\d{8,9})$", name)
    return datetime.fromtimestamp(int(match[1]) * 60, UTC) if match else None


def ensure_recurring_run(
    client: PipelinesClient,
    submission: Submission,
    prefix: str,
    name: str,
    *,
    cron: str,
    concurrency: int,
    catch_up: bool,
    enabled: bool = True,
) -> Outcome:
    """Makes the recurring run called `name` unless it is there, then retires older ones of the same schedule.

    An older one makes no more runs. It is removed when what it started has ended: removed before, it would end that.

    Args:
        client: Kubeflow Pipelines.
        submission: What to run.
        prefix: Names the schedule in all its versions.
        name: Names this version of it.
        cron: Six fields, seconds first, in the time zone of the installation.
        concurrency: How many runs may go on at once.
        catch_up: Whether every missed run is made up for; else the latest alone.
        enabled: Whether it runs.
    """
    existing = client.recurring_runs(prefix)
    current = next((entry for entry in existing if entry["display_name"] == name), None)
    new = current is None
    if current is None:
        current = client.create_recurring_run(
            name,
            max_concurrency=str(concurrency),
            no_catchup=not catch_up,
            mode="ENABLE" if enabled else "DISABLE",
            trigger={"cron_schedule": {"cron": cron}},
            **_source(client, submission, in_experiment=True),
        )
    for entry in existing:
        if entry["display_name"] != name:
            _retire(client, str(entry["recurring_run_id"]), prefix)
    return Outcome(name, str(current["recurring_run_id"]), new=new)


def _retire(client: PipelinesClient, recurring_run_id: str, prefix: str) -> None:
    client.disable_recurring_run(recurring_run_id)
    own = (run for run in client.runs_of_schedule(prefix) if run.get("recurring_run_id") == recurring_run_id)
    if all(run.get("state") in FINISHED for run in own):
        client.delete_recurring_run(recurring_run_id)


def _source(client: PipelinesClient, submission: Submission, *, in_experiment: bool = False) -> Object:
    config: Object = {"parameters": dict(submission.parameters)}
    if submission.pipeline_root:
        config["pipeline_root"] = submission.pipeline_root
    fields: Object = {
        "pipeline_version_reference": dict(client.pipeline_version(submission.pipeline, submission.version)),
        "runtime_config": config,
    }
    if submission.service_account:
        fields["service_account"] = submission.service_account
    experiment = client.default_experiment() if in_experiment else None
    return fields | ({"experiment_id": experiment} if experiment else {})
