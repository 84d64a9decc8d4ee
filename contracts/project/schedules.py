"""The parts `schedules:`, `retraining:` and `batch_prediction:` of a project file: what runs when, on which data."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slipway.contracts.durations import Duration

PipelineName = Literal["training", "retraining", "batch_prediction"]
"""The pipelines of a project."""

_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_PART = re.compile(r"(\*|\d+(?:-\d+)?)(?:/(\d+))?")


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleSpec(_Spec):
    """A pipeline that runs again and again.

    `cron` has five fields: minute, hour, day of the month, month, day of the week. `overlap` says what happens when the
    previous run of this schedule still goes on: `forbid` leaves the new one out, `replace` ends the old one, `allow`
    lets up to `maximum_concurrency` run. `catch_up` says what is started after a time without a scheduler: `none`, the
    `latest` that was missed if it is not older than `catch_up_within`, or `all`.

    `scheduler` is `kubernetes` (a CronJob, in the schedule's own time zone) or `kubeflow` (a recurring run, which the
    page of Kubeflow Pipelines shows and pauses): in the time zone of that installation, where `forbid` makes a run wait
    for the previous one, which knows no `replace` and no `none`, but alone knows `all`.
    """

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,18}[a-z0-9])?$")
    pipeline: PipelineName = "retraining"
    cron: str
    time_zone: str = "UTC"
    overlap: Literal["forbid", "replace", "allow"] = "forbid"
    maximum_concurrency: int = Field(default=1, ge=1, le=10)
    scheduler: Literal["kubernetes", "kubeflow"] = "kubernetes"
    catch_up: Literal["none", "latest", "all"] = "latest"
    catch_up_within: Duration = timedelta(hours=12)
    suspended: bool = False

    @field_validator("cron")
    @classmethod
    def _cron(cls, cron: str) -> str:
        return check_cron(cron)

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{zone!r} is no time zone; write one such as Europe/Berlin") from None
        return zone

    @model_validator(mode="after")
    def _concurrency(self) -> ScheduleSpec:
        if self.overlap != "allow" and self.maximum_concurrency != 1:
            raise ValueError("maximum_concurrency above 1 needs overlap: allow")
        if self.scheduler == "kubernetes" and self.catch_up == "all":
            raise ValueError("catch_up: all needs scheduler: kubeflow")
        if self.scheduler == "kubeflow" and (self.overlap == "replace" or self.catch_up == "none"):
            raise ValueError("overlap: replace and catch_up: none need scheduler: kubernetes")
        return self


class RetrainingSpec(_Spec):
    """Training on the newest data, registered only if it does not fall behind the version that serves.

    `window` keeps the interactions of that length before the run's time; without one, all are used. The new model's
    `metric` may fall behind the champion's by at most the share `tolerance`; by default it is ndcg at the project's
    first k. A gate of the project against the champion on the same metric stands instead of this one.
    """

    window: Duration | None = None
    metric: str | None = None
    tolerance: float = Field(default=0.02, ge=0.0, le=1.0)


class BatchPredictionSpec(_Spec):
    """Answers to a table of users (or pairs of user and item), by the version that an alias points at."""

    input: str = Field(min_length=1, examples=["s3://events/users/", "users.parquet"])
    candidates: str | None = None
    alias: str = Field(default="champion", pattern=r"^[A-Za-z][\w-]*$")
    k: int = Field(default=10, ge=1, le=10_000)
    exclude_seen: bool = True


def check_cron(cron: str) -> str:
    """Returns the cron expression with single spaces between its five fields.

    Raises:
        ValueError: It has another number of fields, or a field is not within its bounds.
    """
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{cron!r} has {len(fields)} fields, not 5: {', '.join(_FIELDS)}")
    for text, name, (low, high) in zip(fields, _FIELDS, _BOUNDS, strict=True):
        for part in text.split(","):
            match = _PART.fullmatch(part)
            if match is None:
                raise ValueError(f"{part!r} is no {name}; write *, 5, 1-5, */15 or a list of these")
            numbers = [] if match[1] == "*" else [int(number) for number in match[1].split("-")]
            if any(not low <= number <= high for number in numbers) or numbers != sorted(numbers):
                raise ValueError(f"{part!r} is no {name}: it goes from {low} to {high}")
            if match[2] is not None and int(match[2]) == 0:
                raise ValueError(f"{part!r} is no {name}: a step of 0 never comes")
    return " ".join(fields)
