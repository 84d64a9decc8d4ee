"""What the router counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from slipway.contracts.metrics import MetricDefinition
from slipway.serving.exposition import counter, gauge
from slipway.serving.router.assignment import Assignment

ASSIGNED_REQUESTS = MetricDefinition(
    "slipway_assigned_requests_total",
    "counter",
    ("arm", "by"),
    "Requests given to an arm, by what decided: user (in the body), header, or draw (nobody was named).",
)
ASSIGNED_USERS = MetricDefinition(
    "slipway_assigned_users_total",
    "counter",
    ("arm",),
    "Users given to an arm by this process, each counted once since it began or the weights changed.",
)
ASSIGNMENT_WEIGHT = MetricDefinition(
    "slipway_assignment_weight", "gauge", ("arm",), "Percent of the users in force for an arm."
)
ASSIGNMENT_FILE_VALID = MetricDefinition(
    "slipway_assignment_file_valid", "gauge", (), "1 while the assignment file can be read, else 0."
)
UPSTREAM_FAILURES = MetricDefinition(
    "slipway_router_failures_total", "counter", ("code",), "Requests that the router had to answer itself, by code."
)
ROUTER_METRICS = (ASSIGNED_REQUESTS, ASSIGNED_USERS, ASSIGNMENT_WEIGHT, ASSIGNMENT_FILE_VALID, UPSTREAM_FAILURES)

REMEMBERED_USERS = 200_000


class RouterMetrics:
    """The counters of one router, each label set made once.

    Args:
        remembered: Users that are remembered so that each counts once. Further ones are not counted: those that were
            are a random part of all, and their split is as good a witness of the whole.
    """

    def __init__(self, remembered: int = REMEMBERED_USERS) -> None:
        self.registry = CollectorRegistry()
        self._requests = counter(ASSIGNED_REQUESTS, self.registry)
        self._users = counter(ASSIGNED_USERS, self.registry)
        self._weights = gauge(ASSIGNMENT_WEIGHT, self.registry)
        self._valid = gauge(ASSIGNMENT_FILE_VALID, self.registry)
        self._failures = counter(UPSTREAM_FAILURES, self.registry)
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
