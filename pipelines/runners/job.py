"""What the local runner is asked to do, and what it reports back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway.contracts.errors import StepError

RUN_FILE = "run.json"


class Job(BaseModel):
    """One run of a pipeline on this machine.

    `pipeline` is `module:function`; the function takes `settings` and returns a KFP pipeline whose tasks are named as
    `steps`. `forced` are steps that run even where the cache has their outcome. `time_limits` are seconds a step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str
    run_id: str
    directory: Path
    cache: Path | None
    pipeline: str
    settings: dict[str, Any] = Field(default_factory=dict)
    steps: tuple[str, ...]
    forced: tuple[str, ...] = ()
    time_limits: dict[str, float] = Field(default_factory=dict)


class StepReport(BaseModel):
    """What became of one step. `seconds` are its own, `outputs` its artifact folders, `result` what it returned."""

    model_config = ConfigDict(extra="forbid")

    step: str
    status: Literal["ran", "cached", "failed", "skipped"] = "skipped"
    seconds: float | None = None
    attempts: int = 0
    outputs: dict[str, Path] = Field(default_factory=dict)
    fingerprints: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)
    error: dict[str, Any] | None = None
    log: Path | None = None


class RunReport(BaseModel):
    """What became of a run."""

    model_config = ConfigDict(extra="forbid")

    project: str
    run_id: str
    directory: Path
    status: Literal["running", "done", "failed", "interrupted"] = "running"
    started: str
    seconds: float | None = None
    steps: list[StepReport]

    def step(self, name: str) -> StepReport:
        """Returns the report of a step.

        Raises:
            KeyError: The run has no such step.
        """
        for step in self.steps:
            if step.step == name:
                return step
        raise KeyError(name)

    def error(self) -> StepError | None:
        """Returns the error of the step that failed, with the exit code of its cause; None if none failed."""
        for step in self.steps:
            if step.status == "failed":
                cause = step.error or {}
                where = cause.get("where")
                what = cause.get("what", "failed without a word")
                return StepError(
                    f"{where}: {what}" if where and where != f"step {step.step}" else what,
                    step=step.step,
                    log=str(step.log) if step.log else None,
                    remedy=cause.get("remedy"),
                    cause=cause,
                    exit_code=int(cause.get("exit_code", 1)),
                )
        return None
