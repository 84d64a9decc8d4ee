"""Where the page gets rollouts from: list, read, history, command. A local store stands behind it; an operator can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from slipway.contracts.rollout import CommandKind
from slipway.serving.rollout.event_stream import Decision


@dataclass(frozen=True)
class RolloutSummary:
    """One line of the list.

    Args:
        rollout: Id.
        candidates: Arms of the versions that are rolled out.
        stable: Arm that they are compared with, None for a first version.
        phase: Phase, as the core names it; "Unreadable" where the state cannot be read.
        step: Step from 1, None before there is one.
        steps: Number of steps.
        weight: Percent of traffic on the candidates.
        started: Unix seconds; None before a controller took it up.
        ended: Unix seconds; None while it goes on.
        reason: Why it stands where it stands.
        alarm: What needs a person, or "".
        terminal: Whether it has ended.
    """

    rollout: str
    candidates: tuple[str, ...]
    stable: str | None
    phase: str
    step: int | None
    steps: int
    weight: int
    started: float | None
    ended: float | None
    reason: str
    alarm: str
    terminal: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON-ready data."""
        return asdict(self)


class RolloutSource(Protocol):
    """What the page needs. All methods may block; they are called from threads, several at once."""

    @property
    def name(self) -> str:
        """What the rollouts belong to, for the page's title."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether `command` is refused whatever it asks for."""
        ...

    def list(self) -> Sequence[RolloutSummary]:
        """Returns every rollout, newest first; one that cannot be read is listed as such."""
        ...

    def read(self, rollout: str) -> dict[str, Any]:
        """Returns one rollout as the page shows it; see `detail.py` for the fields.

        Raises:
            UsageError: There is no such rollout.
            ArtifactError: It cannot be read.
        """
        ...

    def history(self, rollout: str) -> Sequence[Decision]:
        """Returns its decisions, oldest first. A later call returns the same ones and those that came since.

        Raises:
            UsageError: There is no such rollout.
            ArtifactError: They cannot be read.
        """
        ...

    def command(self, rollout: str, kind: CommandKind, by: str) -> str:
        """Gives a command, and returns the id of the rollout to look at from now on.

        Raises:
            UsageError: There is no such rollout.
            RolloutError: The command means nothing where the rollout stands, or is refused.
            SlipwayError: It could not be given; says why.
        """
        ...
