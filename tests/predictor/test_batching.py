"""Requests that wait together share one batch; nothing else about them is shared."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from slipway.serving.predictor.batching import MicroBatcher


def doubled(questions: Sequence[int]) -> list[int]:
    return [2 * question for question in questions]


def test_requests_that_arrive_together_are_answered_in_one_batch_each_with_its_own() -> None:
    sizes: list[int] = []

    def answer(questions: Sequence[int]) -> list[int]:
        sizes.append(len(questions))
        return doubled(questions)

    async def ask() -> list[list[int]]:
        batcher = MicroBatcher(answer, workers=1, maximum=64, inline=100)
        return await asyncio.gather(*(batcher.submit([number, number + 1]) for number in range(10)))

    assert asyncio.run(ask()) == [[2 * number, 2 * number + 2] for number in range(10)]
    assert sizes == [20]


def test_a_batch_is_bounded_and_a_large_request_is_one_of_its_own() -> None:
    sizes: list[int] = []

    def answer(questions: Sequence[int]) -> list[int]:
        sizes.append(len(questions))
        return doubled(questions)

    async def ask() -> None:
        batcher = MicroBatcher(answer, workers=1, maximum=8, inline=0)
        requests = [list(range(3))] * 4 + [list(range(50))]
        replies = await asyncio.gather(*(batcher.submit(questions) for questions in requests))
        assert [len(reply) for reply in replies] == [3, 3, 3, 3, 50]
        batcher.close()

    asyncio.run(ask())
    assert sizes == [6, 6, 50]


def test_one_failing_request_does_not_fail_those_beside_it() -> None:
    def answer(questions: Sequence[int]) -> list[int]:
        if 13 in questions:
            raise ArithmeticError("unlucky")
        return doubled(questions)

    async def ask(inline: int) -> list[object]:
        batcher = MicroBatcher(answer, workers=1, maximum=64, inline=inline)
        try:
            return await asyncio.gather(*(batcher.submit([n]) for n in (1, 13, 2)), return_exceptions=True)
        finally:
            batcher.close()

    for inline in (0, 100):
        first, failed, last = asyncio.run(ask(inline))
        assert (first, last) == ([2], [4])
        assert isinstance(failed, ArithmeticError)


def test_no_more_batches_than_workers_run_at_once_and_none_is_forgotten() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def answer(questions: Sequence[int]) -> list[int]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return doubled(questions)

    async def ask() -> list[list[int]]:
        batcher = MicroBatcher(answer, workers=2, maximum=4, inline=0)
        try:
            async with asyncio.timeout(10):
                return await asyncio.gather(*(batcher.submit([number]) for number in range(100)))
        finally:
            batcher.close()

    assert asyncio.run(ask()) == [[2 * number] for number in range(100)]
    assert most == 2


def test_a_request_that_was_given_up_does_not_disturb_its_batch() -> None:
    release = threading.Event()

    def answer(questions: Sequence[int]) -> list[int]:
        release.wait(5)
        return doubled(questions)

    async def ask() -> None:
        batcher = MicroBatcher(answer, workers=1, maximum=64, inline=0)
        given_up, kept = (asyncio.create_task(batcher.submit([number])) for number in (1, 2))
        await asyncio.sleep(0)
        given_up.cancel()
        release.set()
        assert await kept == [4]
        with pytest.raises(asyncio.CancelledError):
            await given_up
        batcher.close()

    asyncio.run(ask())
