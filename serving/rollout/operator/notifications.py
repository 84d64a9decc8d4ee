"""Tells people: a Slack-compatible webhook, and Alertmanager. Never in the way of a decision.

Messages wait in a short queue that one thread empties; one that cannot be delivered is tried three times and then only
logged. Addresses of webhooks are secrets and are never logged.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

log = logging.getLogger(__name__)

_MOST_WAITING = 200
_ATTEMPTS = 3
ALERT_NAME = "SlipwayRollout"


@dataclass(frozen=True)
class Notice:
    """What happened to a Rollout.

    Args:
        rollout: `namespace/name`.
        model: Its model.
        kind: phase, dropped, alarm, refused, or a reason of an event.
        message: One sentence.
        phase: Where the rollout stands.
        severity: info, warning or critical.
    """

    rollout: str
    model: str
    kind: str
    message: str
    phase: str
    severity: str

    @property
    def text(self) -> str:
        """The notice as a line for a chat."""
        mark = {"critical": ":rotating_light:", "warning": ":warning:"}.get(self.severity, ":ship:")
        return f"{mark} *{self.rollout}* ({self.model}) {self.phase}: {self.message}"


class Notifier:
    """Delivers notices.

    Args:
        slack: URL of a Slack-compatible webhook, or None.
        alertmanager: Base address of an Alertmanager, or None; gets warnings and critical notices only.
        timeout: Seconds that a delivery may take.
        pause: Seconds before a second attempt; the third waits twice as long.
    """

    def __init__(
        self, *, slack: str | None = None, alertmanager: str | None = None, timeout: float = 5.0, pause: float = 1.0
    ) -> None:
        self._slack = slack
        self._alertmanager = None if alertmanager is None else alertmanager.rstrip("/")
        self._client = httpx.Client(timeout=timeout)
        self._pause = pause
        self._waiting: queue.Queue[Notice | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._deliver, name="notifications", daemon=True)
        self._thread.start()

    def tell(self, notice: Notice) -> None:
        """Hands a notice over; returns at once."""
        if self._slack is None and self._alertmanager is None:
            return
        try:
            self._waiting.put_nowait(notice)
        except queue.Full:
            log.warning("too many notices wait; one of %s is left out: %s", notice.rollout, notice.message)

    def close(self, patience: float = 5.0) -> None:
        """Delivers what waits, for so many seconds at most."""
        try:
            self._waiting.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)

    def _deliver(self) -> None:
        while (notice := self._waiting.get()) is not None:
            if self._slack is not None:
                self._post("the chat's webhook", self._slack, {"text": notice.text}, notice)
            if self._alertmanager is not None and notice.severity != "info":
                self._post("Alertmanager", f"{self._alertmanager}/api/v2/alerts", [_alert(notice)], notice)

    def _post(self, what: str, url: str, body: object, notice: Notice) -> None:
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(self._pause * attempt)
            try:
                answer = self._client.post(url, json=body)
            except httpx.HTTPError as error:
                problem = type(error).__name__
                continue
            if answer.status_code < 300:
                return
            problem = f"it answered {answer.status_code}"
        log.warning("%s could not be told of %s (%s): %s", what, notice.rollout, problem, notice.message)


def _alert(notice: Notice) -> Mapping[str, object]:
    """Returns the notice as Alertmanager's API v2 wants it; it ends by itself after ten minutes."""
    now = datetime.now(UTC)
    namespace, _, name = notice.rollout.partition("/")
    return {
        "labels": {
            "alertname": ALERT_NAME,
            "namespace": namespace,
            "rollout": name,
            "model": notice.model,
            "kind": notice.kind,
            "severity": notice.severity,
        },
        "annotations": {"summary": notice.message, "phase": notice.phase},
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=10)).isoformat(),
    }
