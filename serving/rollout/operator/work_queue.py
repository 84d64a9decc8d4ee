"""Which Rollout is due when: each key once, never twice at a time, with growing pauses after failures.

The shape of client-go's work queue. Thread-safe.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable


class WorkQueue:
    """Keys with the time at which they are due.

    Args:
        first: Seconds of the pause after a first failure; each further one doubles it.
        longest: Seconds of the longest pause.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, first: float = 0.5, longest: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._longest, self._clock = first, longest, clock
        self._condition = threading.Condition()
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._working: set[str] = set()
        self._again: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._closed = False

    def __len__(self) -> int:
        with self._condition:
            now = self._clock()
            return sum(due <= now for due in self._due.values())

    def add(self, key: str, after: float = 0.0) -> None:
        """Makes a key due after so many seconds, or sooner where it already is; one in work comes again afterwards."""
        due = self._clock() + after
        with self._condition:
            if key in self._working:
                self._again[key] = min(due, self._again.get(key, due))
                return
            if key in self._due and self._due[key] <= due:
                return
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._condition.notify()

    def get(self) -> str | None:
        """Waits for the next key that is due and returns it; None once the queue is closed."""
        with self._condition:
            while not self._closed:
                while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                    heapq.heappop(self._heap)  # it was made due sooner
                wait = None if not self._heap else self._heap[0][0] - self._clock()
                if wait is not None and wait <= 0:
                    _, key = heapq.heappop(self._heap)
                    del self._due[key]
                    self._working.add(key)
                    return key
                self._condition.wait(wait)
            return None

    def done(self, key: str, after: float | None) -> None:
        """Says that a key was worked on without failure, and when it is due next; None is not before it is added."""
        self._finish(key, after, failed=False)

    def failed(self, key: str) -> float:
        """Says that work on a key failed; returns the pause in seconds after which it comes again."""
        with self._condition:
            count = self._failures.get(key, 0)
        pause = min(self._longest, self._first * 2.0 ** min(count, 30))
        self._finish(key, pause, failed=True)
        return pause

    def close(self) -> None:
        """Has every `get` return None."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _finish(self, key: str, after: float | None, *, failed: bool) -> None:
        with self._condition:
            self._working.discard(key)
            if failed:
                self._failures[key] = self._failures.get(key, 0) + 1
            else:
                self._failures.pop(key, None)
            # What came in meanwhile is due at once, a failure's pause all the same.
            again = self._again.pop(key, None)
            due = None if after is None else self._clock() + after
            if again is not None and not failed:
                due = again if due is None else min(due, again)
            if due is None:
                return
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._condition.notify()
