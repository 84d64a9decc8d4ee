"""What people are told of a Rollout: events beside the object, notices, log lines, each with a named reason."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from slipway.contracts.errors import SlipwayError
from slipway.serving.rollout.core.types import Phase
from slipway.serving.rollout.operator.home import RolloutHome
from slipway.serving.rollout.operator.kube import EVENTS, FIELD_MANAGER, ROLLOUTS, Document, Kube
from slipway.serving.rollout.operator.notifications import Notice, Notifier
from slipway.serving.rollout.operator.preflight import Finding

log = logging.getLogger(__name__)

REASONS = {
    "phase": "PhaseChanged",
    "command": "CommandTaken",
    "dropped": "VersionDropped",
    "alarm": "Alarm",
    "refused": "VersionRefused",
}
"""Kind of a line of history -> reason of its event. Beside them: PreflightFailed, RouteRestored,
InferenceServiceRestored."""

PREFLIGHT_FAILED = "PreflightFailed"
_BAD_PHASES = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED, Phase.HOLDING})


class Announcer:
    """Tells people.

    Args:
        kube: The cluster, for events.
        notifier: Delivers notices.
        component: Who says so.
    """

    def __init__(self, kube: Kube, notifier: Notifier, component: str = FIELD_MANAGER) -> None:
        self._kube = kube
        self._notifier = notifier
        self._component = component
        self._told: dict[tuple[str, str], str] = {}

    def lines(self, home: RolloutHome, lines: Sequence[Mapping[str, Any]]) -> None:
        """Tells lines of history that were written."""
        for line in lines:
            if line["type"] != "event":
                continue
            kind, message = str(line["kind"]), str(line["message"])
            severity = _severity(kind, str(line.get("phase", "")))
            self._event(home, REASONS.get(kind, kind), message, severity)
            if kind != "command":
                self._notify(home, kind, message, str(line.get("phase", "")), severity)

    def restored(self, home: RolloutHome, reason: str, message: str) -> None:
        """Tells that an object was put right."""
        log.warning("%s: %s", home.id, message)
        self._event(home, reason, message, "warning")

    def refused(self, home: RolloutHome, finding: Finding) -> None:
        """Tells why nothing begins, once for each reason."""
        if self._told.get((home.id, "preflight")) == finding.message:
            return
        self._told[home.id, "preflight"] = finding.message
        log.warning("%s: %s", home.id, finding.message)
        self._event(home, PREFLIGHT_FAILED, f"{finding.reason}: {finding.message}", "warning")
        self._notify(home, "preflight", finding.message, Phase.PENDING.value, "warning")

    def _notify(self, home: RolloutHome, kind: str, message: str, phase: str, severity: str) -> None:
        self._notifier.tell(Notice(home.id, home.resource.model.name, kind, message, phase, severity))

    def _event(self, home: RolloutHome, reason: str, message: str, severity: str) -> None:
        owner = home.owner
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event: Document = {
            "metadata": {"namespace": owner.namespace, "generateName": f"{owner.name}."},
            "involvedObject": {
                "apiVersion": ROLLOUTS.api_version,
                "kind": ROLLOUTS.kind,
                "namespace": owner.namespace,
                "name": owner.name,
                "uid": owner.uid,
            },
            "reason": reason,
            "message": message[:1000],
            "type": "Normal" if severity == "info" else "Warning",
            "source": {"component": self._component},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._kube.create(EVENTS, event)
        except SlipwayError as error:
            log.warning("%s: an event could not be written: %s", home.id, error)


def _severity(kind: str, phase: str) -> str:
    if kind == "alarm":
        return "critical"
    if kind in ("dropped", "refused") or (kind == "phase" and phase in _BAD_PHASES):
        return "warning"
    return "info"
