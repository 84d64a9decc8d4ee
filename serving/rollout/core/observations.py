"""What `decide` is told: the plane's arms, readings, commands and versions, as seen at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.contracts.rollout import CommandKind


@dataclass(frozen=True)
class Target:
    """One version: the arm's name, the version, and the digest of its bundle ("" where unknown)."""

    arm: str
    version: str
    digest: str = ""

    @property
    def identity(self) -> str:
        """What a version that went back is remembered by."""
        return self.digest or self.arm


@dataclass(frozen=True)
class ArmObservation:
    """One arm as the plane sees it now. Weight and mirror are read back from the gateway, in percent."""

    ready: int
    total: int
    crash_looping: bool = False
    restarts: int = 0
    weight_applied: int | None = None
    digest: str | None = None
    mirror_applied: int = 0


@dataclass(frozen=True)
class WindowCount:
    """Events out of n for one arm between `start` and `end` (seconds), as exact differences of raw counters.

    Under the guardrail name `assignment`, n is the number of requests that the gateway gave the arm.
    """

    guardrail: str
    arm: str
    start: float
    end: float
    events: float
    n: float


@dataclass(frozen=True)
class WindowMoments:
    """Sum and sum of squares of n values scaled to [0, 1], for one guardrail and arm, between `start` and `end`."""

    guardrail: str
    arm: str
    start: float
    end: float
    n: float
    total: float
    squares: float


@dataclass(frozen=True)
class WindowHistogram:
    """Values counted by bucket (not cumulative, the last one open), for one guardrail and arm."""

    guardrail: str
    arm: str
    start: float
    end: float
    counts: tuple[float, ...]


@dataclass(frozen=True)
class Command:
    """What a person asks for. `id` makes it take effect once, however often it is seen."""

    id: str
    kind: CommandKind
    by: str = ""


@dataclass(frozen=True)
class SmokeTestResult:
    """Answers of an arm to the smoke test, before it gets traffic."""

    arm: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class Observations:
    """Everything seen at one moment. Readings may come late, twice, out of order or not at all.

    Args:
        at: When, in seconds of the same clock as the windows.
        arms: By arm name; empty when the plane does not answer.
        counts: Windows since the last look, in any order; old ones may come again.
        metrics_error: Why there are no readings, or None.
        desired: The version that is wanted now, or None to leave that as it is.
        champion: Version that the registry's alias `champion` names, or None where unknown.
    """

    at: float
    arms: Mapping[str, ArmObservation] = field(default_factory=dict)
    counts: tuple[WindowCount, ...] = ()
    moments: tuple[WindowMoments, ...] = ()
    histograms: tuple[WindowHistogram, ...] = ()
    metrics_error: str | None = None
    desired: Target | None = None
    commands: tuple[Command, ...] = ()
    smoke_test: SmokeTestResult | None = None
    champion: str | None = None
