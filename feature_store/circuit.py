"""A circuit breaker: while a server is away, callers are told so at once instead of waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
TOLERATED_TIMEOUTS = 2  # one late answer on a busy machine is no outage


class CircuitBreaker:
    """Closed, calls go through. Open, they are refused until the wait is over; then one call tries.

    Each failed try doubles the wait. Threads may share it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._doubts = 0
        self._wait = 0.0
        self._open_until = 0.0

    def allows(self) -> bool:
        """Says whether a call may go through now."""
        if not self._wait:
            return True
        with self._lock:
            now = self._clock()
            if self._wait and now < self._open_until:
                return False
            # This call is the try; the others wait for what becomes of it.
            self._open_until = now + self._wait
            return True

    def succeeded(self) -> None:
        """Reports a call that was answered."""
        if self._wait or self._doubts:
            with self._lock:
                self._wait = self._open_until = 0.0
                self._doubts = 0

    def failed(self, *, sure: bool) -> None:
        """Reports a call that was not. `sure`: nobody is there; otherwise the answer was only late."""
        with self._lock:
            self._doubts += 1
            if not sure and not self._wait and self._doubts <= TOLERATED_TIMEOUTS:
                return
            self._wait = min(self._wait * 2 or FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
            self._open_until = self._clock() + self._wait
