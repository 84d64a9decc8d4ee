"""Server-sent events: what changed, as soon as the store says so, and a comment now and then that keeps the line up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from slipway.contracts.errors import SlipwayError
from slipway.contracts.files import sha256_of
from slipway.serving.ui.problems import Problem
from slipway.serving.ui.series import event_points, guardrail_points
from slipway.serving.ui.source import RolloutSource, RolloutSummary

LOOK_SECONDS = 0.5
_BEAT_SECONDS = 15.0
LARGEST_NUMBER = 64
"""Streams at once; each looks at files twice a second."""


class Streams:
    """Makes streams, counts them, and ends them all when the server stops."""

    def __init__(self, source: RolloutSource) -> None:
        self._source = source
        self._stopping = asyncio.Event()
        self._number = 0

    def stop(self) -> None:
        """Ends every stream."""
        self._stopping.set()

    def of_list(self, version: str) -> AsyncIterator[str]:
        """Says `changed` whenever the list of rollouts is another one than `version`, and than what was said last.

        Raises:
            Problem: There are too many streams.
        """
        return self._counted(self._list(version))

    def of_rollout(self, rollout: str, after: int) -> AsyncIterator[str]:
        """Says `state` when the rollout stands elsewhere, `decisions` with those after number `after`, and `end`.

        Raises:
            Problem: There are too many streams.
        """
        return self._counted(self._rollout(rollout, after))

    def _counted(self, messages: AsyncIterator[str]) -> AsyncIterator[str]:
        if self._number >= LARGEST_NUMBER:
            raise Problem(503, f"{LARGEST_NUMBER} pages are open already", remedy="Close some of them.")
        return self._until_stopped(messages)

    async def _until_stopped(self, messages: AsyncIterator[str]) -> AsyncIterator[str]:
        self._number += 1
        try:
            # Browsers wait three seconds before they connect again unless they are told.
            yield "retry: 1000\n\n"
            async for message in messages:
                yield message
        except SlipwayError as error:
            yield _event("problem", Problem.of(error).to_dict())
        finally:
            self._number -= 1

    async def _list(self, version: str) -> AsyncIterator[str]:
        beat = _Beat()
        while True:
            now = version_of(await run_in_threadpool(self._source.list))
            if now != version:
                version = now
                yield _event("changed", {})
            elif beat.due():
                yield ": beat\n\n"
            if await self._stopped():
                return

    async def _rollout(self, rollout: str, after: int) -> AsyncIterator[str]:
        shown: dict[str, Any] | None = None
        beat = _Beat()
        while True:
            # Read before the decisions, so that none is missing when the end is told.
            detail = await run_in_threadpool(self._source.read, rollout)
            decisions = await run_in_threadpool(self._source.history, rollout)
            fresh = decisions[after:]
            if fresh:
                after = len(decisions)
                yield _event(
                    "decisions",
                    {
                        "decisions": [decision.to_dict() for decision in fresh],
                        "events": event_points(fresh),
                        "guardrails": guardrail_points([decision for decision in fresh if decision.guardrails]),
                    },
                    number=after,
                )
            if detail != shown:
                shown = detail
                yield _event("state", detail)
            elif beat.due():
                yield ": beat\n\n"
            if detail["terminal"]:
                yield _event("end", {"phase": detail["phase"]})
                return
            if await self._stopped():
                return

    async def _stopped(self) -> bool:
        """Waits until the next look; returns whether the server stops."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


def version_of(summaries: Sequence[RolloutSummary]) -> str:
    """Returns a text that is another one whenever a line of the list is."""
    return sha256_of(repr(tuple(summaries)))[:16]


class _Beat:
    """Says every so often that it is time for a sign of life."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = asyncio.get_running_loop().time if clock is None else clock
        self._last = self._clock()

    def due(self) -> bool:
        if self._clock() - self._last < _BEAT_SECONDS:
            return False
        self._last = self._clock()
        return True


def _event(name: str, data: Any, *, number: int | None = None) -> str:
    identity = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{identity}data: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n"
