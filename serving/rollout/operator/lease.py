"""Leader election by a Lease of coordination.k8s.io: of several operators, one works and the others stand by.

The holder renews the Lease; another takes it over when it has not seen it change for the Lease's duration, measured by
its own clock from when it saw the last change, so that clocks need not agree. Each write carries the resourceVersion
that was read, so that of two who try at once, one fails. A holder that cannot renew gives up before the others may take
over. (The algorithm of Kubernetes' own `client-go/tools/leaderelection`.)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from slipway.contracts.errors import SlipwayError
from slipway.serving.rollout.operator.kube import LEASES, ConflictError, Document, Kube

log = logging.getLogger(__name__)


class LeaderElection:
    """One candidate for a Lease.

    Args:
        kube: The cluster.
        namespace: Of the Lease.
        name: Of the Lease.
        identity: This candidate's own, unlike any other's.
        duration: Seconds after the last renewal from which on another may take over.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._clock = clock
        self._seen: tuple[str, float] | None = None
        self._renewed: float | None = None

    @property
    def is_leader(self) -> bool:
        """Whether the Lease is held, and was renewed recently enough that nobody may have taken it over."""
        return self._renewed is not None and self._clock() - self._renewed < self._renew_deadline

    @property
    def _renew_deadline(self) -> float:
        return self._duration * 2 / 3

    def wait(self, stop: threading.Event) -> bool:
        """Waits for the Lease; returns False when told to stop before it was had."""
        while not stop.is_set():
            if self.try_once():
                return True
            stop.wait(self._duration / 7.5)
        return False

    def hold(self, stop: threading.Event) -> bool:
        """Renews until told to stop (returns True) or the Lease is lost (returns False)."""
        while not stop.wait(self._duration / 7.5):
            if not self.try_once() and not self.is_leader:
                log.error("the Lease %s/%s is lost", self._namespace, self._name)
                return False
        return True

    def try_once(self) -> bool:
        """Takes or renews the Lease if that is possible now; returns whether it was."""
        began = self._clock()
        try:
            lease = self._kube.get(LEASES, self._namespace, self._name)
            if lease is None:
                self._kube.create(LEASES, self._document(0, None))
            elif self._may_write(lease):
                self._kube.replace(LEASES, self._changed(lease))
            else:
                return False
        except ConflictError:
            return False
        except SlipwayError as error:
            log.warning("the Lease could not be renewed: %s", error)
            return False
        self._renewed = began
        return True

    def release(self) -> None:
        """Gives the Lease back, so that another need not wait for its end."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            lease = self._kube.get(LEASES, self._namespace, self._name)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                self._kube.replace(LEASES, {"metadata": lease["metadata"], "spec": spec})
        except SlipwayError as error:
            log.warning("the Lease was not given back and runs out by itself: %s", error)

    def _may_write(self, lease: Document) -> bool:
        spec = lease["spec"]
        holder = spec.get("holderIdentity", "")
        if holder in ("", self._identity):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
            return False
        return self._clock() - self._seen[1] >= float(spec.get("leaseDurationSeconds", self._duration))

    def _changed(self, lease: Document) -> Document:
        spec = lease["spec"]
        mine = spec.get("holderIdentity") == self._identity
        transitions = int(spec.get("leaseTransitions", 0)) + (0 if mine else 1)
        document = self._document(transitions, spec.get("acquireTime") if mine else None)
        return {"metadata": lease["metadata"], "spec": document["spec"]}

    def _document(self, transitions: int, acquired: Any) -> Document:
        now = _now()
        return {
            "metadata": {"namespace": self._namespace, "name": self._name},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "acquireTime": acquired or now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
