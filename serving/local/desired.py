"""What the plane should run: arms and their weights. `slipway up` and rollouts write it, the supervisor reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slipway.contracts.errors import ArtifactError
from slipway.contracts.files import write_atomically
from slipway.serving.local.layout import PlaneLayout

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


def arm_name(model: str, version: str) -> str:
    """Returns the name of the arm that serves a version: `films`, `2` -> `films-v2`."""
    return f"{model}-v{version}"


class Arm(BaseModel):
    """One served model version: its processes, all alike, and what they need.

    Attributes:
        name: Also the name of the gateway's service; see `arm_name`.
        bundle: Folder of the model bundle.
        replicas: Processes that serve it.
        predictor: `module:Class` of a predictor of the project's own, or None for the standard one.
        environment: Variables added to the processes' environment.
        features: Features artifact whose latest values go to the online store before the arm starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME_PATTERN)
    model: str = Field(pattern=_NAME_PATTERN)
    version: str = Field(min_length=1)
    bundle: Path
    replicas: int = Field(default=2, ge=1, le=64)
    predictor: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    features: Path | None = None


class Desired(BaseModel):
    """All arms that should run and the share of traffic each should get.

    Attributes:
        arms: An arm that leaves this list is drained, then stopped.
        weights: Arm name -> weight, 0 to 100; an arm that is not named has weight 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arms: tuple[Arm, ...] = ()
    weights: dict[str, Annotated[int, Field(ge=0, le=100)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms must have different names, got {names}")
        if unknown := set(self.weights) - set(names):
            raise ValueError(f"weights name arms that are not listed: {sorted(unknown)}")
        return self

    def arm(self, name: str) -> Arm | None:
        """Returns the arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def weight(self, name: str) -> int:
        """Returns the weight wanted for an arm, 0 when none is given."""
        return self.weights.get(name, 0)

    def with_arm(self, arm: Arm) -> Desired:
        """Returns a copy that runs `arm` too, in place of one of the same name; its weight stays or is 0."""
        others = tuple(other for other in self.arms if other.name != arm.name)
        return Desired(arms=(*others, arm), weights=self.weights)

    def without_arm(self, name: str) -> Desired:
        """Returns a copy without the arm and its weight; the same copy when it is absent."""
        return Desired(
            arms=tuple(arm for arm in self.arms if arm.name != name),
            weights={other: weight for other, weight in self.weights.items() if other != name},
        )

    def with_weights(self, weights: dict[str, int]) -> Desired:
        """Returns a copy with exactly these weights."""
        return Desired(arms=self.arms, weights=weights)


def read_desired(project: Path) -> Desired:
    """Returns the desired state of the project in that folder; empty when none was written.

    Raises:
        ArtifactError: The file is there but is no desired state.
    """
    path = PlaneLayout(project).desired
    try:
        return Desired.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Desired()
    except ValidationError as error:
        raise ArtifactError(
            f"not a desired state ({error.errors()[0]['msg']})",
            where=str(path),
            remedy="Remove the file, then run `slipway up`: it serves the champion again.",
        ) from error


def write_desired(project: Path, desired: Desired) -> None:
    """Replaces the desired state atomically; the supervisor acts on it within a tenth of a second."""
    write_atomically(PlaneLayout(project).desired, desired.model_dump_json(indent=2) + "\n")


def update_desired(project: Path, change: Callable[[Desired], Desired]) -> Desired:
    """Reads, changes and writes the desired state as one step, whoever else does the same; returns what was written."""
    with _writer_lock(project):
        before = read_desired(project)
        after = change(before)
        if after != before:
            write_desired(project, after)
        return after


@contextlib.contextmanager
def _writer_lock(project: Path) -> Iterator[None]:
    path = PlaneLayout(project).root / "desired.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
