"""Joins feedback to predictions and counts both when their waiting time is over. Pure: no clock, no I/O.

A request is counted once, when `wait` seconds have passed since its answer: as a joined request, and as a clicked one
if a click came in time. So numerator and denominator belong to the same requests, for all versions alike, at every
moment at which someone looks.
"""

from __future__ import annotations

import heapq
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from slipway.contracts.events import (
    CLICK,
    FeedbackData,
    PredictionEvent,
    RequestSigner,
    TokenOutcome,
    event_source,
    event_time,
)

OUTCOMES = ("accepted", "duplicate", "expired", "forged", "unknown", "late")
HELD = "held"
UNVERIFIED_MODEL = ""
_FEEDBACK_OF_A_REQUEST = 256


@dataclass(slots=True)
class Joined:
    """A request whose waiting time is over, with what came in for it; `first` if it was the first of its user."""

    model: str
    version: str
    prediction: PredictionEvent
    feedback: list[dict[str, Any]]
    clicked: bool
    first: bool = False


@dataclass(slots=True)
class _Request:
    model: str
    version: str
    issued: float
    items: frozenset[str] | tuple[str, ...]
    prediction: PredictionEvent | None
    feedback: list[dict[str, Any]] = field(default_factory=list)
    keys: set[tuple[str, str]] | None = None
    clicked: bool = False
    first: bool = False
    users: tuple[str, ...] = ()


class Joiner:
    """Holds what waits. Memory is bounded: the oldest requests are forgotten beyond `maximum_requests`.

    Args:
        signer: Checks request ids.
        wait: Seconds after an answer in which feedback counts.
        expiry: Seconds after an answer in which feedback is still taken, as late.
        on_feedback: Called once for each piece of feedback with model and outcome, one of OUTCOMES.
        on_late: Called with a feedback event that came too late to count.
        maximum_requests: Requests remembered.
        arrival_slack: Seconds within which a prediction's event follows its answer; feedback that overtakes it waits.
    """

    def __init__(
        self,
        signer: RequestSigner,
        *,
        wait: float,
        expiry: float,
        on_feedback: Callable[[str, str], None],
        on_late: Callable[[dict[str, Any]], None],
        maximum_requests: int = 200_000,
        arrival_slack: float = 5.0,
    ) -> None:
        self._signer = signer
        self._wait = wait
        self._expiry = max(expiry, wait)
        self._on_feedback = on_feedback
        self._on_late = on_late
        self._maximum = maximum_requests
        self._hold = wait + arrival_slack
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._due: list[tuple[float, str]] = []
        self._held: OrderedDict[str, list[tuple[FeedbackData, float]]] = OrderedDict()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def held(self) -> int:
        """Requests for which feedback waits that no prediction event has yet explained."""
        return len(self._held)

    def prediction(self, event: PredictionEvent, now: float) -> bool:
        """Takes an answered request; returns whether it was believed. A second copy changes nothing."""
        data = event.data
        outcome, token = self._signer.verify(data.request_id, now=now, expiry=self._expiry)
        if outcome is not TokenOutcome.OK or token is None:
            return False
        if (token.model, token.version) != (data.model, data.version):
            return False
        if data.request_id in self._requests:
            return True
        # Interned, since all requests name the same few thousand items; a short tuple is far smaller than a set.
        named = tuple(sys.intern(item) for entity in data.entities for item in entity.items)
        items = named if len(named) <= 64 else frozenset(named)
        users = tuple(dict.fromkeys(sys.intern(entity.user) for entity in data.entities))
        request = _Request(token.model, token.version, token.issued, items, event, users=users)
        self._requests[data.request_id] = request
        heapq.heappush(self._due, (token.issued + self._wait, data.request_id))
        for feedback, arrived in self._held.pop(data.request_id, ()):
            self._on_feedback(token.model, self._apply(request, feedback, arrived))
        while len(self._requests) > self._maximum:
            self._requests.popitem(last=False)
            self.forgotten += 1
        return True

    def is_first(self, request_id: str) -> bool:
        """Notes that a request was the first of its user; returns whether it still waits for its feedback."""
        request = self._requests.get(request_id)
        if request is None or request.prediction is None:
            return False
        request.first = True
        return True

    def of_user(self, user: str) -> int:
        """Returns how many requests are remembered that a user, as events hold it, has an answer in."""
        return sum(user in request.users for request in self._requests.values())

    def forget(self, user: str) -> int:
        """Forgets a user's requests, counted or not; later feedback to them is unknown. Returns their number.

        A request for several users that still waits goes on without this one.
        """
        own = [request_id for request_id, request in self._requests.items() if user in request.users]
        for request_id in own:
            request = self._requests[request_id]
            left = None if request.prediction is None else _without(request.prediction, user)
            if left is None:
                del self._requests[request_id]
                continue
            shown = {item for entity in left.data.entities for item in entity.items}
            request.prediction = left
            request.items = tuple(item for item in request.items if item in shown)
            request.users = tuple(other for other in request.users if other != user)
            request.feedback = [event for event in request.feedback if event["data"]["item"] in shown]
            request.clicked = any(event["data"]["type"] == CLICK for event in request.feedback)
        return len(own)

    def feedback(self, data: FeedbackData, now: float) -> str:
        """Takes feedback; returns its outcome, or HELD while its prediction's event is still on the way."""
        outcome, token = self._signer.verify(data.request_id, now=now, expiry=self._expiry)
        if token is None:
            self._on_feedback(UNVERIFIED_MODEL, "forged")
            return "forged"
        request = self._requests.get(data.request_id)
        if outcome is TokenOutcome.EXPIRED:
            verdict = "expired"
        elif request is not None:
            verdict = self._apply(request, data, now)
        elif now - token.issued <= self._hold and self._hold_feedback(data, now):
            return HELD
        else:
            verdict = "unknown"
        self._on_feedback(token.model, verdict)
        return verdict

    def tick(self, now: float) -> Iterator[Joined]:
        """Yields the requests whose waiting time is over, each once, and forgets what has expired."""
        while self._due and self._due[0][0] <= now:
            _, request_id = heapq.heappop(self._due)
            request = self._requests.get(request_id)
            if request is None or request.prediction is None:  # forgotten for want of room
                continue
            yield Joined(
                request.model, request.version, request.prediction, request.feedback, request.clicked, request.first
            )
            request.prediction = None
            request.feedback = []
        while self._held and (first := next(iter(self._held.values())))[0][1] + self._hold < now:
            request_id, _ = self._held.popitem(last=False)
            _, token = self._signer.verify(request_id, now=now, expiry=self._expiry)
            for _ in first:
                self._on_feedback(token.model if token else UNVERIFIED_MODEL, "unknown")
        while self._requests and next(iter(self._requests.values())).issued + self._expiry < now:
            self._requests.popitem(last=False)

    def _hold_feedback(self, data: FeedbackData, now: float) -> bool:
        waiting = self._held.get(data.request_id)
        if waiting is None:
            if len(self._held) >= self._maximum // 10:
                return False
            waiting = self._held[data.request_id] = []
        if len(waiting) >= _FEEDBACK_OF_A_REQUEST:
            return False
        waiting.append((data, now))
        return True

    def _apply(self, request: _Request, data: FeedbackData, arrived: float) -> str:
        key = (data.item, data.type)
        keys = request.keys if request.keys is not None else set()
        if data.item not in request.items or len(keys) >= _FEEDBACK_OF_A_REQUEST:
            return "unknown"
        if key in keys:
            return "duplicate"
        keys.add(key)
        request.keys = keys
        late = request.prediction is None or arrived > request.issued + self._wait  # None: counted already
        outcome = "late" if late else "accepted"
        event = _feedback_event(request, data, arrived, outcome)
        if late:
            self._on_late(event)
        else:
            request.feedback.append(event)
            request.clicked = request.clicked or data.type == CLICK
        return outcome


def _without(event: PredictionEvent, user: str) -> PredictionEvent | None:
    """Returns an event without the answer for a user; None where it was for nobody else."""
    left = tuple(entity for entity in event.data.entities if entity.user != user)
    if not left:
        return None
    return event.model_copy(update={"data": event.data.model_copy(update={"entities": left})})


def _feedback_event(request: _Request, data: FeedbackData, arrived: float, outcome: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{data.request_id}/{data.item}/{data.type}",
        "source": event_source(request.model, request.version),
        "time": event_time(arrived),
        "datacontenttype": "application/json",
        "type": "dev.slipway.feedback.v1",
        "model": request.model,
        "version": request.version,
        "outcome": outcome,
        "data": data.model_dump(),
    }
