"""A rollout as it is handed to a controller, and what a person may tell it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slipway.contracts.rollout.part import Part
from slipway.contracts.rollout.policy import RolloutPolicy

CommandKind = Literal["pause", "resume", "approve", "abort", "retry", "promote", "skip"]
"""What a person may tell a running rollout; `approve` opens the gate that it waits at, as `resume` does."""


class ArmTarget(Part):
    """One version that an arm serves. `arm` is its name everywhere: `<model>-v<version>`."""

    arm: str
    version: str
    digest: str = Field("", description="sha256 of the bundle; a version that went back is known by it.")
    bundle: str = Field("", description="Path or URI of the bundle.")


class RolloutSpec(Part):
    """A rollout as it is handed to a controller: which version, over which, by which policy."""

    id: str
    model: str
    candidates: tuple[ArmTarget, ...] = Field(min_length=1)
    stable: ArmTarget | None = Field(None, description="None for the first version of a model.")
    known_good: ArmTarget | None = None
    policy: RolloutPolicy = Field(default_factory=lambda: RolloutPolicy.model_validate({}))
