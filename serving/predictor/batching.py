"""Answers requests that wait together with one feature read and one matrix product.

No request waits for a batch to fill: whatever has arrived by the time a scoring thread is free is answered together.
An answer does not depend on what shares its batch, so batching changes nothing but the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Question = TypeVar("Question")
Reply = TypeVar("Reply")


class MicroBatcher(Generic[Question, Reply]):
    """Belongs to one event loop.

    Args:
        answer: Answers n questions with n replies, in order; called from threads.
        workers: Batches that may be under way at once.
        maximum: Questions in a batch; a request with more is a batch of its own.
        inline: A batch of at most so many is answered in the event loop when nothing else is under way: handing it to
            a thread would take longer.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], list[Reply]],
        *,
        workers: int,
        maximum: int = 64,
        inline: int = 8,
    ) -> None:
        self._answer = answer
        self._workers = workers
        self._maximum = maximum
        self._inline = inline
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="score")
        self._waiting: deque[tuple[Sequence[Question], asyncio.Future[list[Reply]]]] = deque()
        self._running = 0
        self._scheduled = False

    async def submit(self, questions: Sequence[Question]) -> list[Reply]:
        """Returns the replies to one request, or raises what answering it raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Reply]] = loop.create_future()
        self._waiting.append((questions, future))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._start)  # after the other requests that arrived in this turn of the loop
        return await future

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False)

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._running < self._workers:
            batch = [self._waiting.popleft()]
            size = len(batch[0][0])
            while self._waiting and size + len(self._waiting[0][0]) <= self._maximum:
                batch.append(self._waiting.popleft())
                size += len(batch[-1][0])
            requests = [questions for questions, _ in batch]
            futures = [future for _, future in batch]
            if size <= self._inline and not self._running:
                _settle(futures, self._attempt(requests))
            else:
                self._running += 1
                work = asyncio.get_running_loop().run_in_executor(self._threads, self._attempt, requests)
                work.add_done_callback(lambda done, futures=futures: self._finish(futures, done))  # type: ignore[misc]

    def _finish(
        self, futures: list[asyncio.Future[list[Reply]]], done: asyncio.Future[list[list[Reply] | Exception]]
    ) -> None:
        self._running -= 1
        if done.cancelled() or done.exception() is not None:
            _settle(futures, [RuntimeError("scoring was interrupted") for _ in futures])
        else:
            _settle(futures, done.result())
        self._start()

    def _attempt(self, requests: Sequence[Sequence[Question]]) -> list[list[Reply] | Exception]:
        """Answers all at once or, should that fail, each by itself, so that one cannot fail the others."""
        try:
            replies = self._answer([question for questions in requests for question in questions])
        except Exception as error:  # noqa: BLE001 - it is raised again where the request is answered
            if len(requests) == 1:
                return [error]
            return [outcome for questions in requests for outcome in self._attempt([questions])]
        outcomes: list[list[Reply] | Exception] = []
        start = 0
        for questions in requests:
            outcomes.append(replies[start : start + len(questions)])
            start += len(questions)
        return outcomes


def _settle(futures: Sequence[asyncio.Future[list[Reply]]], outcomes: Sequence[list[Reply] | Exception]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():  # its request was given up
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
