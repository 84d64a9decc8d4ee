"""What joined requests and users add up to, by version: one table that a scrape sees whole, never half updated.

A click belongs to a request that is counted; a scrape between the two would hand the rollout an event without its
request. So all counters of the table change under one lock, and are read under it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric

from slipway.contracts import metrics as names
from slipway.contracts.events import CLICK
from slipway.contracts.metrics import RANKING_DEPTHS, MetricDefinition
from slipway.serving.capture.rankings import Ranking


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request, or of one user.

    Attributes:
        clicked: Whether a click.
        values: Per type of feedback, what its values add up to.
        rankings: Per type of feedback that came, how well the answer ranked the items that got it.
    """

    clicked: bool
    values: Mapping[str, float]
    rankings: Mapping[str, Ranking] = field(default_factory=dict)


@dataclass
class _Ranked:
    """Sums over requests or users, of one type of feedback; those without any count as an NDCG of 0, and for no AUC."""

    ndcg: list[float] = field(default_factory=lambda: [0.0] * len(RANKING_DEPTHS))
    ndcg_squares: list[float] = field(default_factory=lambda: [0.0] * len(RANKING_DEPTHS))
    auc: float = 0.0
    auc_squares: float = 0.0
    auc_n: int = 0

    def add(self, ranking: Ranking) -> None:
        for index, value in enumerate(ranking.ndcg):
            self.ndcg[index] += value
            self.ndcg_squares[index] += value * value
        if ranking.auc is not None:
            self.auc += ranking.auc
            self.auc_squares += ranking.auc**2
            self.auc_n += 1

    def rows(self, n: int) -> Iterator[tuple[str, float, float, int, int]]:
        """Yields measure, sum, sum of squares, number in it and number left out, of `n` requests or users."""
        for depth, total, squares in zip(RANKING_DEPTHS, self.ndcg, self.ndcg_squares, strict=True):
            yield f"ndcg@{depth}", total, squares, n, 0
        yield "auc", self.auc, self.auc_squares, self.auc_n, n - self.auc_n


@dataclass
class _Tally:
    n: int = 0
    clicked: int = 0
    values: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    ranked: dict[str, _Ranked] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.n += 1
        self.clicked += outcome.clicked
        for kind, value in outcome.values.items():
            self.values[kind] = self.values.get(kind, 0.0) + value
            self.squares[kind] = self.squares.get(kind, 0.0) + value * value
        for kind, ranking in outcome.rankings.items():
            self.ranked.setdefault(kind, _Ranked()).add(ranking)


@dataclass
class _Version:
    requests: _Tally = field(default_factory=_Tally)
    users: _Tally = field(default_factory=_Tally)
    new_users: int = 0


class JoinedCounts:
    """The counters of joined requests and users; a Prometheus collector.

    Args:
        registry: Where they are exported.
        types: Types of feedback whose values are added up; their series exist from a version's first mention on.
    """

    def __init__(self, registry: CollectorRegistry, types: Iterable[str] = ()) -> None:
        self._types = tuple(types)
        self._ranked = tuple(dict.fromkeys((CLICK, *self._types)))
        self._versions: dict[tuple[str, str], _Version] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def know(self, model: str, version: str) -> None:
        """Makes every series of a version, at 0."""
        with self._lock:
            self._at(model, version)

    def new_user(self, model: str, version: str) -> None:
        """Counts a user whose first request this version answered."""
        with self._lock:
            self._at(model, version).new_users += 1

    def joined(self, model: str, version: str, request: Outcome, user: Outcome | None) -> None:
        """Counts a request whose waiting time is over, and its user too where it was the user's first."""
        with self._lock:
            entry = self._at(model, version)
            entry.requests.add(request)
            if user is not None:
                entry.users.add(user)

    def collect(self) -> Iterable[Metric]:
        """Returns all counters, of one moment."""
        with self._lock:
            families = {definition.name: _family(definition) for definition in names.JOINED_METRICS}
            for (model, version), entry in self._versions.items():
                arm = (model, version)
                families[names.NEW_USERS.name].add_metric(arm, entry.new_users)
                for tally, (n, clicked, values, squares) in ((entry.requests, _REQUESTS), (entry.users, _USERS)):
                    families[n.name].add_metric(arm, tally.n)
                    families[clicked.name].add_metric(arm, tally.clicked)
                    for kind in self._types:
                        families[values.name].add_metric((*arm, kind), tally.values.get(kind, 0.0))
                        families[squares.name].add_metric((*arm, kind), tally.squares.get(kind, 0.0))
                for unit, tally in (("request", entry.requests), ("user", entry.users)):
                    for kind in self._ranked:
                        for measure, *sums in tally.ranked.get(kind, _Ranked()).rows(tally.n):
                            for definition, value in zip(_RANKINGS, sums, strict=True):
                                families[definition.name].add_metric((*arm, measure, kind, unit), value)
            return list(families.values())

    def _at(self, model: str, version: str) -> _Version:
        return self._versions.setdefault((model, version), _Version())


_REQUESTS = (names.JOINED_REQUESTS, names.JOINED_CLICKED, names.JOINED_VALUE, names.JOINED_VALUE_SQUARES)
_RANKINGS = (names.JOINED_RANKING, names.JOINED_RANKING_SQUARES, names.JOINED_RANKED, names.JOINED_UNRANKED)
_USERS = (names.JOINED_USERS, names.JOINED_CLICKED_USERS, names.JOINED_USER_VALUE, names.JOINED_USER_VALUE_SQUARES)


def _family(definition: MetricDefinition) -> CounterMetricFamily:
    return CounterMetricFamily(definition.name, definition.help, labels=definition.labels)
