"""One look at one Rollout: read it, check it, have the core decide, keep its objects as decided.

Called again and again, by time and by changes; any call may be the last before the process is killed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from slipway.contracts.errors import SlipwayError
from slipway.contracts.rollout.resource import RolloutResource
from slipway.serving.rollout.controller import Looker
from slipway.serving.rollout.core.types import Phase, State
from slipway.serving.rollout.operator.announcements import Announcer
from slipway.serving.rollout.operator.exported_metrics import OperatorMetrics
from slipway.serving.rollout.operator.home import RolloutHome, accepted_policy
from slipway.serving.rollout.operator.kube import HTTP_ROUTES, ROLLOUTS, Document, Kube
from slipway.serving.rollout.operator.observing import ClusterSight
from slipway.serving.rollout.operator.plane import ClusterPlane, Surroundings
from slipway.serving.rollout.operator.preflight import Finding, preflight
from slipway.serving.rollout.operator.rendering import VersionTemplate
from slipway.serving.rollout.operator.status import PREFLIGHT, VALID, Condition
from slipway.serving.rollout.queries import at_predictors
from slipway.serving.rollout.readings import CounterReader

log = logging.getLogger(__name__)

FINALIZER = "slipway.dev/traffic"
REFUSED_AGAIN = 20.0
"""Seconds until a cluster that cannot split traffic is looked at again."""
SPEC_VALID, SPEC_INVALID, VERSION_CLASH = "Valid", "Invalid", "VersionServes"


@dataclass(frozen=True)
class Pace:
    """How often is looked: seconds between two looks in motion, and at rest."""

    moving: float = 5.0
    resting: float = 300.0


class Reconciler:
    """Looks at Rollouts. May be called by several threads, for different Rollouts.

    Args:
        surroundings: What all Rollouts share.
        metrics: Receives every look.
        announcer: Receives what people should know.
        reader: Makes a reader of the Prometheus at an address; shared by all looks.
        pace: How often is looked.
        clock: Unix seconds.
        seen: Receives each Rollout as it was read; must return at once.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        metrics: OperatorMetrics,
        announcer: Announcer,
        *,
        reader: Callable[[str], CounterReader] = CounterReader,
        pace: Pace = Pace(),
        clock: Callable[[], float] = time.time,
        seen: Callable[[Document], object] = lambda _: None,
    ) -> None:
        self._around = surroundings
        self._metrics = metrics
        self._announcer = announcer
        self._make_reader = reader
        self._readers: dict[str, CounterReader] = {}
        self._pace = pace
        self._clock = clock
        self._seen = seen

    @property
    def _kube(self) -> Kube:
        return self._around.kube

    def look(self, namespace: str, name: str) -> float | None:
        """Looks once; returns after how many seconds to look again, or None where there is nothing left to look at.

        Raises:
            SlipwayError: The look failed, and is to be repeated after a pause.
        """
        began = time.monotonic()
        problem: Exception | None = None
        try:
            return self._look(namespace, name)
        except SlipwayError as error:
            problem = error
            raise
        finally:
            self._metrics.ticked(time.monotonic() - began, problem)

    def _look(self, namespace: str, name: str) -> float | None:
        document = self._kube.get(ROLLOUTS, namespace, name)
        if document is None:
            self._metrics.forget(f"{namespace}/{name}")
            return None
        if "deletionTimestamp" in document["metadata"]:
            return self._finalize(document)
        document = self._with_finalizer(document)
        self._seen(document)
        spec, problem = _checked(document)
        if spec is None:
            return self._invalid(document, problem)
        home = self._home(document, spec)
        valid = Condition(VALID, problem == "", SPEC_VALID if not problem else SPEC_INVALID, problem)
        clash = home.clash
        if clash is not None:
            valid = Condition(VALID, False, VERSION_CLASH, clash)
        finding = self._preflight(home, spec) if clash is None else None
        if finding is not None and not finding.passed:
            refused = Condition(PREFLIGHT, False, finding.reason, finding.message)
            home.say([valid, refused], phase=Phase.PENDING.value, reason=finding.message)
            self._announcer.refused(home, finding)
            if home.state is None:
                return REFUSED_AGAIN
        return self._decide(home, valid, finding, follow=clash is None and (finding is None or finding.passed))

    def _decide(self, home: RolloutHome, valid: Condition, finding: Finding | None, *, follow: bool) -> float:
        before = home.state
        home.conditions = [valid]
        if finding is not None:
            home.conditions.append(Condition(PREFLIGHT, finding.passed, finding.reason, finding.message))
        plane = ClusterPlane(self._around, home)
        looker: Looker[ClusterSight, VersionTemplate] = Looker(
            plane,
            reader=self._reader,
            clock=self._clock,
            seen=self._metrics.show,
            source=at_predictors(home.owner.namespace),
        )
        state = looker.look(home, home.wanted if follow else None).state
        plane.keep(state)
        if not state.terminal:
            return self._pace.moving
        # What was just ended, and what was only just begun to be put right, is looked at once more soon.
        return self._pace.moving if before is None or not before.terminal else self._pace.resting

    def _preflight(self, home: RolloutHome, spec: RolloutResource) -> Finding | None:
        """Returns what the cluster lacks where a version is about to be started; None where none is."""
        state = home.state
        if state is not None and not (state.terminal and _begins(home, state)):
            return None
        return preflight(self._kube, home.owner, spec)

    def _home(self, document: Document, spec: RolloutResource) -> RolloutHome:
        home: RolloutHome

        def written(lines: Sequence[Mapping[str, Any]]) -> None:
            self._announcer.lines(home, lines)

        home = RolloutHome(self._kube, document, spec, written=written, clock=self._clock)
        return home

    def _with_finalizer(self, document: Document) -> Document:
        meta = document["metadata"]
        if FINALIZER in meta.get("finalizers", ()):
            return document
        finalizers = [*meta.get("finalizers", ()), FINALIZER]
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"]}}
        return self._kube.merge(ROLLOUTS, meta["namespace"], meta["name"], patch) or document

    def _finalize(self, document: Document) -> float | None:
        """Ends a Rollout that is being deleted: no more requests first, then its versions go with it."""
        meta = document["metadata"]
        if FINALIZER not in meta.get("finalizers", ()):
            return None
        route = self._kube.get(HTTP_ROUTES, meta["namespace"], meta["name"])
        if route is not None and _owned(route, meta["uid"]):
            self._kube.delete(HTTP_ROUTES, meta["namespace"], meta["name"], uid=route["metadata"]["uid"])
            return 0.2
        left = [one for one in meta["finalizers"] if one != FINALIZER]
        patch = {"metadata": {"finalizers": left, "resourceVersion": meta["resourceVersion"]}}
        self._kube.merge(ROLLOUTS, meta["namespace"], meta["name"], patch)
        self._metrics.forget(f"{meta['namespace']}/{meta['name']}")
        return None

    def _invalid(self, document: Document, problem: str) -> float:
        """Says what is wrong with a spec that has never been valid; there is nothing to go by until it is mended."""
        placeholder = _PLACEHOLDER
        home = self._home(document, placeholder)
        home.say([Condition(VALID, False, SPEC_INVALID, problem)], phase=Phase.PENDING.value, reason=problem)
        log.warning("%s/%s: %s", document["metadata"]["namespace"], document["metadata"]["name"], problem)
        return self._pace.resting

    def _reader(self, url: str) -> CounterReader:
        reader = self._readers.get(url)
        if reader is None:
            reader = self._readers[url] = self._make_reader(url)
        return reader


_PLACEHOLDER = RolloutResource.model_validate(
    {
        "model": {"name": "invalid", "version": "0", "uri": "s3://invalid"},
        "traffic": {"gateway": {"name": "invalid"}, "hostnames": ["invalid"]},
    }
)
"""Stands for a spec that cannot be read; nothing is done by it."""


def _checked(document: Document) -> tuple[RolloutResource | None, str]:
    """Returns the spec and what is wrong with it; with the last valid policy, where only the policy is wrong."""
    try:
        return RolloutResource.model_validate(document["spec"]), ""
    except ValidationError as error:
        problem = "; ".join(
            f"spec.{'.'.join(str(part) for part in one['loc'])}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
    policy = accepted_policy(document)
    if policy is None:
        return None, problem
    try:
        return RolloutResource.model_validate({**document["spec"], "policy": policy}), problem
    except ValidationError:
        return None, problem


def _begins(home: RolloutHome, state: State) -> bool:
    """Returns whether another version than that of the last run is wanted, or the last one again by a command."""
    wanted = home.wanted
    serving = state.candidate if state.phase is Phase.PROMOTED else state.stable
    if any(command.kind == "retry" for command in home.commands()):
        return True
    if wanted is None or wanted.identity in state.went_back:
        return False
    return serving is None or wanted.arm != serving.arm


def _owned(document: Document, uid: str) -> bool:
    return any(one["uid"] == uid for one in document["metadata"].get("ownerReferences", ()))
