"""What the plane runs now, as its supervisor and its gateway report it."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.files import write_atomically
from slipway.serving.local.desired import Assignment
from slipway.serving.local.layout import PlaneLayout


class ReplicaStatus(BaseModel):
    """One predictor process of an arm.

    Attributes:
        url: Its own address on loopback, past the gateway: fit for a smoke test, not for users.
        state: starting, ready, unready (runs, but does not say that it is ready), backing_off, draining or stopped.
        restarts: Restarts after crashes since the arm came.
        last_exit: Exit status of its last crash; negative for the number of a signal.
    """

    model_config = ConfigDict(extra="ignore")

    name: str
    pid: int | None = None
    url: str
    metrics_url: str
    grpc: str
    state: str
    restarts: int = 0
    last_exit: int | None = None


class ArmStatus(BaseModel):
    """One arm: how many of its processes are ready and what the gateway sends to it.

    Attributes:
        ready: Replicas that say that they are ready.
        total: Replicas that should be.
        restarts: Restarts after crashes, over all replicas, since the arm came.
        crash_looping: At least 4 restarts within 60 seconds.
        last_exit: Exit status of the last crash; negative for the number of a signal.
        weight_applied: Weight that the running gateway reports for the arm, 0 when it has no route. Where users are
            drawn, the weight that the processes which assign them report.
        mirror_applied: Percent of the public requests of which the running gateway says that it sends a copy.
        state: pending (features or processes on their way), serving, degraded, down, draining, failed.
        problem: What keeps the arm from being ready, for people.
        replicas: The processes.
    """

    model_config = ConfigDict(extra="ignore")

    ready: int = 0
    total: int = 0
    restarts: int = 0
    crash_looping: bool = False
    last_exit: int | None = None
    weight_applied: int = 0
    mirror_applied: int = 0
    state: str = "pending"
    problem: str | None = None
    replicas: tuple[ReplicaStatus, ...] = ()


class ServiceStatus(BaseModel):
    """One process that is no predictor: redis, prometheus, traefik, collector, controller, router."""

    model_config = ConfigDict(extra="ignore")

    pid: int | None = None
    ready: bool = False
    state: str = "starting"
    restarts: int = 0
    crash_looping: bool = False
    last_exit: int | None = None


class Observed(BaseModel):
    """State of the whole plane at `updated_at`.

    Attributes:
        endpoints: gateway, prometheus, collector, traefik_api, traefik_metrics, direct: http URLs; redis: redis URL;
            grpc: host:port. `direct` sends a request to the arm named in its header `x-slipway-arm`, whatever
            the weights, on loopback, outside the gateway's counts for the arm.
        weights_desired: The weights that the supervisor last read.
        mirrors_desired: The copies that it last read.
        assignment_desired: What should be drawn: users only where two arms have weight, else requests.
        assignment_applied: What the running gateway draws; None where it does not answer.
        updated_at: Unix seconds; older than a few seconds means that no supervisor is at work.
    """

    model_config = ConfigDict(extra="ignore")

    arms: dict[str, ArmStatus] = Field(default_factory=dict)
    services: dict[str, ServiceStatus] = Field(default_factory=dict)
    endpoints: dict[str, str] = Field(default_factory=dict)
    weights_desired: dict[str, int] = Field(default_factory=dict)
    mirrors_desired: dict[str, int] = Field(default_factory=dict)
    assignment_desired: Assignment = "request"
    assignment_applied: Assignment | None = None
    supervisor_pid: int | None = None
    updated_at: float = 0.0

    def is_fresh(self, now: float | None = None, *, seconds: float = 5.0) -> bool:
        """Returns whether a supervisor wrote this within the last `seconds`."""
        return (time.time() if now is None else now) - self.updated_at <= seconds


def read_observed(project: Path) -> Observed:
    """Returns the last observed state; an empty one (never fresh) when there is none or it cannot be read."""
    try:
        return Observed.model_validate_json(PlaneLayout(project).observed.read_bytes())
    except (FileNotFoundError, ValidationError):
        return Observed()


def write_observed(project: Path, observed: Observed) -> None:
    """Replaces the observed state atomically; the supervisor alone does so."""
    write_atomically(PlaneLayout(project).observed, observed.model_dump_json(indent=2) + "\n")
