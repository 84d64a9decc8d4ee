"""What the plane should run: arms and their weights. `slipway up` and rollouts write it, the supervisor reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slipway.contracts.errors import ArtifactError
from slipway.contracts.files import write_atomically
from slipway.serving.local.layout import PlaneLayout

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

Percent = Annotated[int, Field(ge=0, le=100)]
Assignment = Literal["request", "user"]
"""Who stays with an arm: each request is drawn anew, or a user always gets the same."""


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
        mirrors: Arm name -> percent of the public requests of which it gets a copy; its answers reach nobody.
        assignment: Whether a request or a user is drawn; makes a difference where two arms have weight.
        experiment: Names of the arms among which users are drawn, first the one that had them all before. An arm that
            has left stays named, since where each one's users are depends on how many there are. With other names,
            users are drawn anew, so that one comparison leaves no trace in the next.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arms: tuple[Arm, ...] = ()
    weights: dict[str, Percent] = Field(default_factory=dict)
    mirrors: dict[str, Percent] = Field(default_factory=dict)
    assignment: Assignment = "request"
    experiment: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms must have different names, got {names}")
        for what, named in (("weights", self.weights), ("mirrors", self.mirrors)):
            if unknown := set(named) - set(names):
                raise ValueError(f"{what} name arms that are not listed: {sorted(unknown)}")
        return self

    def arm(self, name: str) -> Arm | None:
        """Returns the arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def weight(self, name: str) -> int:
        """Returns the weight wanted for an arm, 0 when none is given."""
        return self.weights.get(name, 0)

    def mirror(self, name: str) -> int:
        """Returns the percent of requests wanted as copies for an arm, 0 when none is given."""
        return self.mirrors.get(name, 0)

    @property
    def draws_users(self) -> bool:
        """True where users have to be told apart: with one arm, everyone gets the same in any case."""
        return self.assignment == "user" and sum(weight > 0 for weight in self.weights.values()) > 1

    def with_arm(self, arm: Arm) -> Desired:
        """Returns a copy that runs `arm` too, in place of one of the same name; its weight stays or is 0."""
        others = tuple(other for other in self.arms if other.name != arm.name)
        return self._changed(arms=(*others, arm))

    def without_arm(self, name: str) -> Desired:
        """Returns a copy without the arm, its weight and its copies; the same copy when it is absent."""
        return self._changed(
            arms=tuple(arm for arm in self.arms if arm.name != name),
            weights={other: weight for other, weight in self.weights.items() if other != name},
            mirrors={other: percent for other, percent in self.mirrors.items() if other != name},
        )

    def with_weights(
        self,
        weights: Mapping[str, int],
        *,
        mirrors: Mapping[str, int] | None = None,
        assignment: Assignment | None = None,
        experiment: tuple[str, ...] | None = None,
    ) -> Desired:
        """Returns a copy with exactly these weights and copies (none, where not given).

        Assignment and experiment stay where not given.
        """
        return self._changed(
            weights=dict(weights),
            mirrors=dict(mirrors or {}),
            assignment=self.assignment if assignment is None else assignment,
            experiment=self.experiment if experiment is None else experiment,
        )

    def _changed(self, **changes: Any) -> Desired:
        return Desired(**({name: getattr(self, name) for name in Desired.model_fields} | changes))


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
