"""Sends prediction events to the collector without ever making an answer wait."""

from __future__ import annotations

import http.client
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from slipway.contracts.events import BATCH_CONTENT_TYPE, RequestSigner, prediction_event

_HEXADECIMAL = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """What the sender needs of an answered request; user ids are still plain and are hashed before they leave."""

    request_id: str
    seconds: float
    latency_ms: float
    caller_id: str | None
    users: list[str]
    items: list[list[str]]
    scores: list[list[float]]
    fallbacks: list[str | None]
    features: list[str]
    trace_id: str | None = None
    shadow: bool = False


class EventSender:
    """A bounded queue and one thread that posts its content in batches.

    When the queue is full, or the collector stays away, the newest events are dropped and counted.

    Args:
        url: The collector, e.g. http://127.0.0.1:9000.
        model, version, replica: Who answers.
        signer: Hashes user ids.
        dropped: Called with the number of events that were lost.
        capacity: Events that may wait.
        interval: Seconds between posts.
    """

    MAXIMUM_BATCH = 500

    def __init__(
        self,
        url: str,
        *,
        model: str,
        version: str,
        replica: str,
        signer: RequestSigner,
        dropped: Callable[[int], None],
        capacity: int = 10_000,
        interval: float = 0.1,
    ) -> None:
        address = urlsplit(url)
        self._host = address.hostname or "127.0.0.1"
        self._port = address.port or 80
        self._identity = {"model": model, "version": version, "replica": replica}
        self._signer = signer
        self._dropped = dropped
        self._queue: deque[AnsweredRequest] = deque()
        self._capacity = capacity
        self._interval = interval
        self._stopping = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def put(self, answered: AnsweredRequest) -> None:
        """Queues one event; returns at once."""
        if len(self._queue) >= self._capacity:
            self._dropped(1)
        else:
            self._queue.append(answered)

    def close(self, timeout: float = 2.0) -> None:
        """Sends what waits, for at most `timeout` seconds; the rest counts as dropped."""
        self._stopping.set()
        self._thread.join(timeout)
        if left := len(self._queue):
            self._dropped(left)

    def _run(self) -> None:
        pause = self._interval
        while True:
            stopping = self._stopping.wait(pause)
            sent = self._send_waiting()
            if stopping and (not sent or not self._queue):
                return
            pause = self._interval if sent else min(pause * 2, 2.0)

    def _send_waiting(self) -> bool:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self.MAXIMUM_BATCH))]
            if not self._post(orjson.dumps([self._event(answered) for answered in batch])):
                self._queue.extendleft(reversed(batch))
                return False
        return True

    def _post(self, body: bytes) -> bool:
        """Posts once, and once more on a new connection if the old one was closed meanwhile."""
        for _ in range(2):
            fresh = self._connection is None
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=2.0)
            try:
                self._connection.request("POST", "/events", body, {"Content-Type": BATCH_CONTENT_TYPE})
                response = self._connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                self._connection = None
                if fresh:
                    return False
            else:
                if response.status >= 500:
                    return False
                if response.status >= 400:  # the same body would be refused again
                    self._dropped(body.count(b'"specversion"'))
                return True
        return False

    def _event(self, answered: AnsweredRequest) -> dict[str, Any]:
        entities = [
            {
                "user": self._signer.hash_user(user),
                "items": items,
                "scores": scores,
                "fallback": fallback,
                "features": features,
            }
            for user, items, scores, fallback, features in zip(
                answered.users, answered.items, answered.scores, answered.fallbacks, answered.features, strict=True
            )
        ]
        data = {
            "request_id": answered.request_id,
            **self._identity,
            "caller_id": answered.caller_id,
            "trace_id": answered.trace_id,
            "shadow": answered.shadow,
            "latency_ms": answered.latency_ms,
            "entities": entities,
        }
        return prediction_event(data, seconds=answered.seconds)


def trace_id_of(traceparent: str | None) -> str | None:
    """Returns the trace id of a W3C `traceparent` header (version, id, parent, flags), or None where it has none."""
    parts = (traceparent or "").split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or not set(parts[1]) <= _HEXADECIMAL or not parts[1].strip("0"):
        return None
    return parts[1]


def now() -> float:
    """Returns seconds since 1970; the one clock that predictions are stamped with."""
    return time.time()
