"""The `training:` part of a project file: how many processes train, where they keep checkpoints, and the TrainJob."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAXIMUM_PROCESSES = 64


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckpointSpec(_Spec):
    """Where and how often the state of a training is kept, so that a killed one goes on.

    `location` is `s3://bucket/prefix`, or a folder relative to the project file; by default the state folder of the
    project. A checkpoint is written after every `every` epochs, and the newest `keep` stay.
    """

    location: str | None = Field(default=None, min_length=1, examples=["s3://models/checkpoints", "checkpoints"])
    every: int = Field(default=1, ge=1, le=1_000_000)
    keep: int = Field(default=2, ge=1, le=100)

    @field_validator("location")
    @classmethod
    def _known_kind(cls, location: str | None) -> str | None:
        if location is not None and "://" in location and not re.fullmatch(r"s3://[^/\s]+(/\S*)?", location):
            raise ValueError(f"{location!r} is neither a folder nor s3://bucket/prefix")
        return location


class TrainJobSpec(_Spec):
    """The TrainJob of Kubeflow Trainer: `nodes` pods with `training.processes` processes each."""

    nodes: int = Field(default=1, ge=1, le=1024)
    runtime: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")] = "torch-distributed"


class TrainingSpec(_Spec):
    """How the train step trains; none of it says what is learnt.

    `processes` is their number on each machine. Every process computes its share of each batch of `batch_size`, so the
    result is that of one process but for the rounding of sums.
    """

    processes: int = Field(default=1, ge=1, le=MAXIMUM_PROCESSES)
    checkpoints: CheckpointSpec = CheckpointSpec()
    train_job: TrainJobSpec = TrainJobSpec()
