"""What the router counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from slipway.contracts import metrics as names
from slipway.serving.exposition import counter, gauge
from slipway.serving.router.assignment import Assignment

REMEMBERED_USERS = 200_000


class RouterMetrics:
    """The counters of one router, each label set made once.

    Args:
        remembered: Users that are remembered so that each counts once. Further ones are not counted: those that were
            are a random part of all, and their split is as good a witness of the whole.
    """

    def __init__(self, remembered: int = REMEMBERED_USERS) -> None:
        self.registry = CollectorRegistry()
        self._requests = counter(names.ASSIGNED_REQUESTS, self.registry)
        self._users = counter(names.ASSIGNED_USERS, self.registry)
        self._weights = gauge(names.ASSIGNMENT_WEIGHT, self.registry)
        self._valid = gauge(names.ASSIGNMENT_FILE_VALID, self.registry)
        self._failures = counter(names.UPSTREAM_FAILURES, self.registry)
        self._request_of: dict[tuple[str, str], Counter] = {}
        self._user_of: dict[str, Counter] = {}
        self._seen: set[int] = set()
        self._remembered = remembered

    def use(self, assignment: Assignment) -> None:
        """Shows the weights now in force, and counts every user anew under them."""
        self._weights.clear()
        self._seen.clear()
        for arm, weight in assignment.arms.items():
            self._weights.labels(arm).set(weight)
            self._user_of[arm] = self._users.labels(arm)
            for by in ("user", "header", "draw"):
                self._request_of[arm, by] = self._requests.labels(arm, by)

    def count(self, arm: str, by: str, bucket: int) -> None:
        """Counts a request, and its user if it is the first of theirs."""
        self._request_of[arm, by].inc()
        if by != "draw" and bucket not in self._seen and len(self._seen) < self._remembered:
            self._seen.add(bucket)
            self._user_of[arm].inc()

    def count_failure(self, status: int) -> None:
        """Counts an answer that the router made itself."""
        self._failures.labels(str(status)).inc()

    def show_file(self, *, valid: bool) -> None:
        """Shows whether the assignment file can be read."""
        self._valid.set(valid)
