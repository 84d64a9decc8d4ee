"""What is known of a version that is to be promoted, and how what came of it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from slipway.contracts.evaluation import GateResult
from slipway.serving.promotion.audit import Version


@dataclass(frozen=True)
class Quality:
    """Metrics of a version by name, and the protocol by which they were measured, in one line."""

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    protocol: str = ""


@dataclass(frozen=True)
class Candidate:
    """A registered version with what a reviewer reads: model card, gates, metrics, lineage.

    `gates` are those of the evaluation and those of the environment, checked.
    """

    model: str
    version: Version
    quality: Quality = Quality()
    card: str = ""
    gates: tuple[GateResult, ...] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)


QualityOf = Callable[[Version], Quality | None]
"""Returns what is known of the version that a candidate takes the place of; None if nothing is."""

Status = Literal["opened", "pushed", "exists", "current", "dry-run", "approved"]
"""`pushed`: the branch is there and no pull request was opened, for want of a token; `exists`: nothing new was made."""


@dataclass(frozen=True)
class Outcome:
    """What a command came to.

    `pull_request` is the page of the pull request, `open_page` the page on which a person can open it. `state` is that
    of the pull request.
    """

    status: Status
    action: Literal["promote", "revert", "approve"]
    model: str
    environment: str
    version: str
    digest: str
    replaces: str | None
    base: str
    branch: str | None = None
    commit: str | None = None
    pull_request: str | None = None
    state: str | None = None
    open_page: str | None = None
    approvals: int = 0
    approvals_needed: int = 0
    forced: tuple[str, ...] = ()
    diff: str = ""
    notes: tuple[str, ...] = ()
