"""The collector's HTTP interface: POST /events from predictors, POST /v1/feedback from users, GET /health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector
from pydantic import ValidationError
from redis.exceptions import RedisError

from slipway.contracts import metrics as names
from slipway.contracts.events import CLICK, FeedbackData, PredictionEvent, RequestSigner
from slipway.serving.asgi import Receive, Refusal, Scope, Send, read_body, send_error, send_json
from slipway.serving.capture.counts import JoinedCounts, Outcome
from slipway.serving.capture.forgetting import Gone, came_late, gone_with, without_user
from slipway.serving.capture.joiner import OUTCOMES, UNVERIFIED_MODEL, Joined, Joiner
from slipway.serving.capture.parts import PartWriter
from slipway.serving.capture.rankings import ranking_of
from slipway.serving.capture.shadow import ShadowComparison, ShadowMetrics
from slipway.serving.capture.users import LocalUsers, Sighting, UserMemory
from slipway.serving.exposition import counter

logger = logging.getLogger("slipway.capture")

EVENTS_LIMIT = 16 << 20
FEEDBACK_LIMIT = 256 << 10
MAXIMUM_FEEDBACK = 500
_TICK_SECONDS = 0.05
_CLEAN_SECONDS = 600.0
_FEEDBACK_FIELDS = frozenset({"request_id", "item", "type", "value"})


class CollectorMetrics:
    """The collector's counters; a version's series are made when it is first heard of, and start at 0."""

    def __init__(self, registry: CollectorRegistry | None = None, types: Iterable[str] = ()) -> None:
        self.registry = registry or CollectorRegistry()
        self._feedback = counter(names.FEEDBACK, self.registry)
        self.joined = JoinedCounts(self.registry, types)
        self._known: set[tuple[str, str]] = set()
        ProcessCollector(registry=self.registry)
        self._know_model(UNVERIFIED_MODEL)

    def know(self, model: str, version: str) -> None:
        """Makes every series of a version."""
        if (model, version) in self._known:
            return
        self._known.add((model, version))
        self.joined.know(model, version)
        self._know_model(model)

    @property
    def models(self) -> set[str]:
        """Models that were heard of."""
        return {model for model, _ in self._known}

    def _know_model(self, model: str) -> None:
        for outcome in OUTCOMES:
            self._feedback.labels(model=model, outcome=outcome)

    def feedback(self, model: str, outcome: str) -> None:
        """Counts one piece of feedback."""
        self._feedback.labels(model=model, outcome=outcome).inc()


class Collector:
    """An ASGI application; `run` is its clockwork and must be started beside it.

    Args:
        signer: Checks request ids.
        wait, expiry: Seconds, see Joiner.
        directory: Where captured events go.
        clock: Seconds since 1970.
        retention_days: How long captured events are kept.
        maximum_requests: Requests remembered.
        users: Who was seen before; remembered in this process if not given.
        maxima: Types of feedback whose values are added up, with the largest value that a request or user counts with.
    """

    def __init__(
        self,
        signer: RequestSigner,
        *,
        wait: float,
        expiry: float,
        directory: Path,
        metrics: CollectorMetrics | None = None,
        clock: Callable[[], float] = time.time,
        retention_days: float = 30.0,
        maximum_requests: int = 200_000,
        users: UserMemory | None = None,
        maxima: Mapping[str, float] | None = None,
    ) -> None:
        self._maxima = dict(maxima or {})
        self.metrics = metrics or CollectorMetrics(types=self._maxima)
        self._users: UserMemory = users or LocalUsers()
        self._clock = clock
        self._joined_parts = PartWriter(directory, "joined", retention_days=retention_days)
        self._late_parts = PartWriter(directory, "late", retention_days=retention_days)
        self.joiner = Joiner(
            signer,
            wait=wait,
            expiry=expiry,
            on_feedback=self.metrics.feedback,
            on_late=lambda event: self._late_parts.add(orjson.dumps(event), self._clock()),
            maximum_requests=maximum_requests,
        )
        self.shadow = ShadowComparison(signer, ShadowMetrics(self.metrics.registry), expiry=max(expiry, wait))
        self._expiry = max(expiry, wait)
        self._forgotten: dict[str, float] = {}
        self._routes = {
            ("POST", "/events"): self._events,
            ("POST", "/v1/feedback"): self._feedback,
            ("POST", "/users/forget"): self._forget,
            ("GET", "/health"): self._health,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        try:
            handler = self._routes.get((scope["method"], scope["path"]))
            if handler is None:
                known = any(path == scope["path"] for _, path in self._routes)
                raise Refusal(405 if known else 404, "send feedback as a POST to /v1/feedback")
            status, content = await handler(scope, receive)
            await send_json(send, status, orjson.dumps(content))
        except Refusal as refusal:
            await send_error(send, refusal.status, refusal.reason, close=refusal.close)

    async def run(self) -> None:
        """Counts what is due and writes parts, until cancelled; then writes what is left."""
        cleaned = 0.0
        try:
            while True:
                now = self._clock()
                self.advance(now)
                for parts in (self._joined_parts, self._late_parts):
                    if parts.due(now):
                        await asyncio.to_thread(parts.flush, now)
                    if now - cleaned > _CLEAN_SECONDS:
                        await asyncio.to_thread(parts.clean, now)
                if now - cleaned > _CLEAN_SECONDS:
                    cleaned = now
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            self.advance(self._clock())
            self._joined_parts.flush(self._clock())
            self._late_parts.flush(self._clock())

    def advance(self, now: float) -> None:
        """Counts and keeps the requests whose waiting time is over at `now`."""
        for joined in self.joiner.tick(now):
            user = _outcome(joined, self._maxima, of_first_user=True) if joined.first else None
            request = _outcome(joined, self._maxima, of_first_user=False)
            self.metrics.joined.joined(joined.model, joined.version, request, user)
            self._joined_parts.add(_line(joined), now)
        self.shadow.tick(now)

    async def _events(self, scope: Scope, receive: Receive) -> tuple[int, Any]:
        content = _decode(await read_body(scope, receive, limit=EVENTS_LIMIT))
        if not isinstance(content, list):
            raise Refusal(400, "send a JSON array of CloudEvents")
        accepted, sightings = 0, []
        for raw in content:
            try:
                event = PredictionEvent.model_validate(raw)
            except ValidationError:
                continue
            now = self._clock()
            if self._is_of_forgotten(event):
                accepted += 1  # Believed, and not kept: it was asked before the person was forgotten.
                continue
            if event.data.shadow:  # nobody saw the answer, so that nobody can click on it
                accepted += self.shadow.take(event, now)
            elif self.joiner.prediction(event, now):
                self.shadow.take(event, now)
                self.metrics.know(event.data.model, event.data.version)
                sightings.append(event)
                accepted += 1
        await self._meet(sightings)
        if rejected := len(content) - accepted:
            logger.warning("%d of %d prediction events were malformed, forged or expired", rejected, len(content))
        return 202, {"accepted": accepted, "rejected": rejected}

    async def _meet(self, events: Sequence[PredictionEvent]) -> None:
        """Counts users that were not seen before. A request for several users belongs to the first of them."""
        asked = [event for event in events if event.data.entities]
        sightings = [Sighting(event.data.model, event.data.version, event.data.entities[0].user) for event in asked]
        for event, first in zip(asked, await self._users.first(sightings, self._clock()), strict=True):
            if first and self.joiner.is_first(event.data.request_id):
                self.metrics.joined.new_user(event.data.model, event.data.version)

    async def _feedback(self, scope: Scope, receive: Receive) -> tuple[int, Any]:
        content = _decode(await read_body(scope, receive, limit=FEEDBACK_LIMIT))
        if isinstance(content, dict):
            outcome = self._one(content, "feedback")
            if outcome == "forged":
                raise Refusal(403, "this request id was not given out here")
            return 202, {"outcome": outcome}
        if not isinstance(content, list) or not content:
            raise Refusal(400, "send one object with request_id, item and type, or an array of such objects")
        if len(content) > MAXIMUM_FEEDBACK:
            raise Refusal(
                413, f"{len(content)} pieces of feedback in one request, at most {MAXIMUM_FEEDBACK} are taken"
            )
        outcomes = []
        for index, raw in enumerate(content):
            try:
                outcomes.append({"outcome": self._one(raw, f"feedback[{index}]")})
            except Refusal as refusal:
                outcomes.append({"outcome": "malformed", "error": refusal.reason})
        if all(outcome["outcome"] == "malformed" for outcome in outcomes):
            raise Refusal(400, outcomes[0]["error"])
        if all(outcome["outcome"] == "forged" for outcome in outcomes):
            raise Refusal(403, "these request ids were not given out here")
        return 202, {"outcomes": outcomes}

    def _one(self, raw: Any, where: str) -> str:
        if not isinstance(raw, dict):
            raise Refusal(400, f"{where} must be an object with request_id, item and type")
        if isinstance(item := raw.get("item"), int) and not isinstance(item, bool):
            raw = raw | {"item": str(item)}
        try:
            data = FeedbackData.model_validate(raw)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part)[:64] for part in problem["loc"])
            raise Refusal(400, f"{where}.{field}: {problem['msg']}") from None
        return self.joiner.feedback(data, self._clock())

    async def _forget(self, scope: Scope, receive: Receive) -> tuple[int, Any]:
        """Takes a person out of what is in memory. The gateway leads nobody here: it is for those on the machine."""
        content = _decode(await read_body(scope, receive, limit=FEEDBACK_LIMIT))
        user = content.get("user") if isinstance(content, dict) else None
        if not isinstance(user, str) or not re.fullmatch(r"[0-9a-f]{32}", user):
            raise Refusal(400, "send an object whose user is 32 hexadecimal digits, as events hold it")
        if content.get("dry_run"):
            return 200, {"requests": self.joiner.of_user(user), "lines": 0, "gone": {}}
        now = self._clock()
        self._forgotten = {one: at for one, at in self._forgotten.items() if now - at <= self._expiry} | {user: now}
        requests = self.joiner.forget(user)
        gone: Gone = {}
        lines = await self._joined_parts.edit(lambda line: _line_without(line, user, gone))
        lines += await self._late_parts.edit(lambda line: None if came_late(orjson.loads(line), gone) else line)
        models = sorted(self.metrics.models | {str(content.get("model", ""))})
        try:
            await self._users.forget(user, models)
        except (RedisError, OSError) as error:
            raise Refusal(503, f"the memory of users does not answer ({type(error).__name__}); try again") from None
        items = {request: None if left is None else sorted(left) for request, left in gone.items()}
        return 200, {"requests": requests, "lines": lines, "gone": items}

    def _is_of_forgotten(self, event: PredictionEvent) -> bool:
        """Returns whether an event came late that is about somebody who was forgotten since it was answered."""
        if not self._forgotten:
            return False
        asked = datetime.fromisoformat(event.time).timestamp()
        return any(asked <= self._forgotten.get(entity.user, float("-inf")) for entity in event.data.entities)

    async def _health(self, scope: Scope, receive: Receive) -> tuple[int, Any]:
        del scope, receive
        return 200, {"ready": True, "remembered": len(self.joiner), "forgotten": self.joiner.forgotten}


def _outcome(joined: Joined, maxima: Mapping[str, float], *, of_first_user: bool) -> Outcome:
    """Returns what came of a request; or of its first user alone, where it was for several."""
    entities = joined.prediction.data.entities
    own = frozenset(entities[0].items) if of_first_user and len(entities) > 1 else None
    counted = [event["data"] for event in joined.feedback if own is None or event["data"]["item"] in own]
    values = {
        kind: min(maximum, sum(max(0.0, data["value"] or 0.0) for data in counted if data["type"] == kind))
        for kind, maximum in maxima.items()
    }
    lists = [(entity.items, entity.scores) for entity in (entities[:1] if of_first_user else entities)]
    rankings = {kind: ranking_of(lists, gains) for kind, gains in _gains(counted, maxima).items()}
    return Outcome(any(data["type"] == CLICK for data in counted), values, rankings)


def _gains(counted: Sequence[Mapping[str, Any]], maxima: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns the gain of each item, 0 to 1, by type of feedback: a click's is 1, a value's its share of the most."""
    gains: dict[str, dict[str, float]] = {}
    for data in counted:
        if data["type"] == CLICK:
            gain = 1.0
        elif data["type"] in maxima:
            gain = min(1.0, max(0.0, data["value"] or 0.0) / maxima[data["type"]])
        else:
            continue
        if gain > 0:
            gains.setdefault(data["type"], {})[data["item"]] = gain
    return gains


def _line_without(line: bytes, user: str, gone: Gone) -> bytes | None:
    """Returns a line of joined requests without a user; what goes with it is noted."""
    if user.encode() not in line:
        return line
    row = orjson.loads(line)
    gone |= gone_with(row, user)
    left = without_user(row, user)
    return line if left is row else None if left is None else orjson.dumps(left)


def _line(joined: Joined) -> bytes:
    return orjson.dumps(
        {
            "prediction": joined.prediction.model_dump(mode="json"),
            "feedback": joined.feedback,
            "clicked": joined.clicked,
        }
    )


def _decode(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None


@contextlib.asynccontextmanager
async def clockwork(collector: Collector) -> Any:
    """Runs the collector's clockwork for the block; what is left is written at its end."""
    task = asyncio.create_task(collector.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
