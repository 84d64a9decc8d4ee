"""Compares a version's answers to copies of requests with the answers that the users got. Pure: no clock, no I/O.

Original and copy are known to belong together by what both carry: the trace id that the gateway stamps on a request
before it copies it; else the caller's own request id; else the same users asked about, nearest in time. Under each of
these, users and number of answers must agree, and every event is used once.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric

from slipway.contracts import metrics as names
from slipway.contracts.events import AnsweredEntity, PredictionEvent, RequestSigner, TokenOutcome
from slipway.contracts.metrics import RANKING_DEPTHS

# The gateway waits ten seconds for an arm; events follow within a few tenths.
_WINDOW_SECONDS = 15.0
# Without an id in common, more time would pair different requests of a busy user.
_NEAREST_SECONDS = 2.0
_QUIET_SECONDS = 60.0

Key = tuple[str, ...]
Series = tuple[str, str]
"""Name of a metric, and the number of items that it looks at, or "" where that is no label of it."""

_SERIES: tuple[Series, ...] = tuple(
    (definition.name, at)
    for definition in names.SHADOW_METRICS
    for at in (map(str, RANKING_DEPTHS) if "at" in definition.labels else ("",))
)


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two answers for one user are, each figure from 0 to 1.

    Attributes:
        agreement: Share of the k items that both have, k being the length of the longer answer; 1 where both are empty.
        agreement_at: The same of the first k items, for each k of RANKING_DEPTHS (of fewer, where both are shorter).
        rank_correlation: Kendall's tau of the items in common, (tau + 1) / 2; None with fewer than two.
        score_difference: Mean over the items in common of |a - b| / (|a| + |b|); None without any.
    """

    agreement: float
    agreement_at: tuple[float, ...]
    rank_correlation: float | None
    score_difference: float | None


def compare(original: AnsweredEntity, copy: AnsweredEntity) -> Similarity:
    """Returns how alike the answers of two versions for one user are.

    Agreement at k: Webber, Moffat and Zobel 2010, section 2. Rank correlation: Kendall 1938; an answer has no ties.
    Difference of scores: Lance and Williams 1967, which needs no common scale beyond a sign.
    """
    k = max(len(original.items), len(copy.items))
    if k == 0:
        return Similarity(1.0, (1.0,) * len(RANKING_DEPTHS), None, None)
    place = {item: index for index, item in enumerate(copy.items)}
    common = [(index, place[item]) for index, item in enumerate(original.items) if item in place]
    scored = [
        _relative_difference(original.scores[here], copy.scores[there])
        for here, there in common
        if here < len(original.scores) and there < len(copy.scores)
    ]
    return Similarity(
        len(common) / k,
        tuple(
            sum(here < depth and there < depth for here, there in common) / min(depth, k) for depth in RANKING_DEPTHS
        ),
        _concordance([there for _, there in common]) if len(common) > 1 else None,
        sum(scored) / len(scored) if scored else None,
    )


def _concordance(places: Sequence[int]) -> float:
    """Returns the share of pairs in ascending order, which is (tau + 1) / 2 where nothing ties."""
    before: list[int] = []
    ascending = 0
    for place in places:
        index = bisect_left(before, place)
        ascending += index
        before.insert(index, place)
    return ascending / (len(places) * (len(places) - 1) / 2)


def _relative_difference(one: float, other: float) -> float:
    size = abs(one) + abs(other)
    return abs(one - other) / size if size else 0.0


class ShadowMetrics:
    """Sums and sums of squares per version that answered copies, from which mean and bounds follow.

    Args:
        registry: Where the counters are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._versions: dict[tuple[str, str], dict[Series, float]] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def know(self, model: str, version: str) -> None:
        """Makes every series of a version, which then starts at 0."""
        with self._lock:
            self._at(model, version)

    def pair(self, model: str, version: str, similarity: Similarity) -> None:
        """Counts one pair of answers."""
        figures = [
            (similarity.agreement, None, (names.SHADOW_AGREEMENT, names.SHADOW_AGREEMENT_SQUARES), ""),
            *(
                (share, None, (names.SHADOW_AGREEMENT_AT, names.SHADOW_AGREEMENT_AT_SQUARES), str(depth))
                for depth, share in zip(RANKING_DEPTHS, similarity.agreement_at, strict=True)
            ),
            (
                similarity.rank_correlation,
                names.SHADOW_RANK_PAIRS,
                (names.SHADOW_RANK, names.SHADOW_RANK_SQUARES),
                "",
            ),
            (
                similarity.score_difference,
                names.SHADOW_SCORE_PAIRS,
                (names.SHADOW_SCORE, names.SHADOW_SCORE_SQUARES),
                "",
            ),
        ]
        with self._lock:
            sums = self._at(model, version)
            sums[names.SHADOW_PAIRS.name, ""] += 1
            for value, pairs, (total, squares), at in figures:
                if value is None:
                    continue
                if pairs is not None:
                    sums[pairs.name, ""] += 1
                sums[total.name, at] += value
                sums[squares.name, at] += value * value

    def unpaired(self, model: str, version: str) -> None:
        """Counts an answer to a copy for which no original came."""
        with self._lock:
            self._at(model, version)[names.SHADOW_UNPAIRED.name, ""] += 1

    def collect(self) -> Iterable[Metric]:
        """Returns all counters, of one moment: a sum of other pairs than those that are counted is no mean of them."""
        families = {
            definition.name: CounterMetricFamily(definition.name, definition.help, labels=definition.labels)
            for definition in names.SHADOW_METRICS
        }
        with self._lock:
            for arm, sums in self._versions.items():
                for (name, at), value in sums.items():
                    families[name].add_metric((*arm, at) if at else arm, value)
        return list(families.values())

    def _at(self, model: str, version: str) -> dict[Series, float]:
        if (model, version) not in self._versions:
            self._versions[model, version] = dict.fromkeys(_SERIES, 0.0)
        return self._versions[model, version]


@dataclass(slots=True)
class _Waiting:
    version: str
    issued: float
    shadow: bool
    entities: tuple[AnsweredEntity, ...]
    taken: bool = False


class ShadowComparison:
    """Holds events until their counterpart comes. Memory is bounded: the oldest give way beyond `maximum_waiting`.

    Args:
        signer: Checks request ids.
        metrics: Where pairs are counted.
        expiry: Seconds after which a request id is refused.
        maximum_waiting: Events held.
    """

    def __init__(
        self, signer: RequestSigner, metrics: ShadowMetrics, *, expiry: float, maximum_waiting: int = 10_000
    ) -> None:
        self._signer = signer
        self._metrics = metrics
        self._expiry = expiry
        self._maximum = maximum_waiting
        self._waiting: OrderedDict[Key, list[_Waiting]] = OrderedDict()
        self._due: list[tuple[float, int, Key, _Waiting]] = []
        self._last_copy = float("-inf")
        self._number = 0
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def take(self, event: PredictionEvent, now: float) -> bool:
        """Takes the event of an original or of a copy; returns whether it was believed.

        Args:
            event: The event.
            now: Seconds since 1970.
        """
        data = event.data
        outcome, token = self._signer.verify(data.request_id, now=now, expiry=self._expiry)
        if outcome is not TokenOutcome.OK or token is None:
            return False
        if (token.model, token.version) != (data.model, data.version):
            return False
        if data.shadow:
            self._metrics.know(data.model, data.version)
            self._last_copy = now
        key, seconds = _key(event)
        entry = _Waiting(data.version, token.issued, data.shadow, data.entities)
        other = self._nearest(key, entry, seconds)
        if other is None:
            self._hold(key, entry, now)
            return True
        other.taken = True
        self._drop(key, other)
        original, copy = (other, entry) if entry.shadow else (entry, other)
        for mine, theirs in zip(original.entities, copy.entities, strict=True):
            self._metrics.pair(data.model, copy.version, compare(mine, theirs))
        return True

    def tick(self, now: float) -> None:
        """Gives up what has waited too long; copies among it are counted as unpaired."""
        while self._due and self._due[0][0] <= now:
            _, _, key, entry = heapq.heappop(self._due)
            self._give_up(key, entry)

    def _nearest(self, key: Key, entry: _Waiting, seconds: float) -> _Waiting | None:
        users = [entity.user for entity in entry.entities]
        fitting = [
            other
            for other in self._waiting.get(key, ())
            if other.shadow != entry.shadow
            and other.version != entry.version
            and abs(other.issued - entry.issued) <= seconds
            and [entity.user for entity in other.entities] == users
        ]
        return min(fitting, key=lambda other: abs(other.issued - entry.issued), default=None)

    def _hold(self, key: Key, entry: _Waiting, now: float) -> None:
        self._waiting.setdefault(key, []).append(entry)
        self._number += 1
        self._held += 1
        heapq.heappush(self._due, (now + _WINDOW_SECONDS, self._number, key, entry))
        # Without copies, there are just enough originals for the first ones to come.
        maximum = self._maximum if now - self._last_copy < _QUIET_SECONDS else self._maximum // 10
        while self._held > maximum:
            oldest = next(iter(self._waiting))
            self._give_up(oldest, self._waiting[oldest][0])
        if len(self._due) > 2 * self._maximum + 1000:  # mostly events that found their counterpart long ago
            self._due = [item for item in self._due if not item[3].taken]
            heapq.heapify(self._due)

    def _give_up(self, key: Key, entry: _Waiting) -> None:
        if entry.taken:
            return
        entry.taken = True
        self._drop(key, entry)
        if entry.shadow:
            self._metrics.unpaired(key[0], entry.version)

    def _drop(self, key: Key, entry: _Waiting) -> None:
        waiting = self._waiting[key]
        waiting[:] = [other for other in waiting if other is not entry]
        self._held -= 1
        if not waiting:
            del self._waiting[key]


def _key(event: PredictionEvent) -> tuple[Key, float]:
    """Returns what original and copy have in common, model first, and how far apart in time they may be."""
    data = event.data
    if data.trace_id:
        return (data.model, "trace", data.trace_id), _WINDOW_SECONDS
    if data.caller_id:
        return (data.model, "caller", data.caller_id), _WINDOW_SECONDS
    return (data.model, "users", *(entity.user for entity in data.entities)), _NEAREST_SECONDS
