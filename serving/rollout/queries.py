"""What is read from Prometheus for each guardrail and arm, as selectors that a person can paste there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slipway.contracts import metrics
from slipway.contracts.events import CLICK
from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, Guardrail


@dataclass(frozen=True)
class Counter:
    """A sum of counter series: the metric and the label matchers that pick them, for one arm.

    `minus` are matchers of series to subtract, as for a cumulative histogram bucket.
    """

    metric: str
    matchers: str
    minus_metric: str | None = None
    minus_matchers: str = ""

    @property
    def query(self) -> str:
        """The PromQL selector, as a person would paste it into Prometheus."""
        selector = f"{self.metric}{{{self.matchers}}}"
        if self.minus_metric is None:
            return selector
        return f"{selector} - ignoring(le) {self.minus_metric}{{{self.minus_matchers}}}"

    @property
    def selectors(self) -> tuple[tuple[str, int], ...]:
        """(selector, sign) of each part."""
        plus = ((f"{self.metric}{{{self.matchers}}}", 1),)
        minus = () if self.minus_metric is None else ((f"{self.minus_metric}{{{self.minus_matchers}}}", -1),)
        return plus + minus


@dataclass(frozen=True)
class CountQuery:
    """What to count for one guardrail and one arm: events out of total."""

    guardrail: str
    arm: str
    events: Counter
    total: Counter

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Everything that is read."""
        return self.events, self.total

    @property
    def query(self) -> str:
        """What is read, as a person would paste it into Prometheus."""
        return f"{self.events.query} out of {self.total.query}"


@dataclass(frozen=True)
class MomentsQuery:
    """What to add up for one guardrail and one arm: values, their squares and their number, scaled by their maximum."""

    guardrail: str
    arm: str
    values: Counter
    squares: Counter
    n: Counter
    maximum: float

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Everything that is read."""
        return self.values, self.squares, self.n

    @property
    def query(self) -> str:
        """What is read, as a person would paste it into Prometheus."""
        return f"{self.values.query} out of {self.n.query}, squares {self.squares.query}"


@dataclass(frozen=True)
class HistogramQuery:
    """Which histogram to read for one guardrail and one arm; `buckets` picks its cumulative bucket series."""

    guardrail: str
    arm: str
    buckets: Counter

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Everything that is read."""
        return (self.buckets,)

    @property
    def query(self) -> str:
        """What is read, as a person would paste it into Prometheus."""
        return self.buckets.query


@dataclass(frozen=True)
class ResourceQuery:
    """What the processes of one arm used: processor seconds and answers as counters, and memory as it is now."""

    arm: str
    cpu: Counter
    answers: Counter
    memory: str

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Every counter that is read."""
        return self.cpu, self.answers


Query = CountQuery | MomentsQuery | HistogramQuery


@dataclass(frozen=True)
class CounterSource:
    """Where requests, errors and latency are counted: at the gateway, or by the predictors themselves.

    Args:
        requests: Counter of requests by code.
        latency: Histogram of their time.
        service: Value of the label `service` at the gateway, `{arm}` standing for the arm; None at the predictors,
            whose series carry model and version.
        within: Matchers that every series has, such as those of a namespace.
    """

    requests: str
    latency: str
    service: str | None = None
    within: str = ""

    def by_version(self, model: str, version: str) -> str:
        """Returns the matchers of what predictors and collector count for a version."""
        return f'{self.within + "," if self.within else ""}model="{model}",version="{version}"'

    def by_arm(self, arm: ArmTarget, model: str) -> str:
        """Returns the matchers of an arm's requests."""
        if self.service is None:
            return self.by_version(model, arm.version)
        return f'service="{self.service.format(arm=arm.arm)}"'


AT_LOCAL_GATEWAY = CounterSource(metrics.GATEWAY_REQUESTS.name, metrics.GATEWAY_LATENCY.name, service="{arm}@file")
"""On one machine: at the gateway, since a predictor that is gone counts nothing."""


def at_predictors(namespace: str) -> CounterSource:
    """Returns the source on a cluster: no gateway counts by version in the same way; pods that are gone are seen there.

    Args:
        namespace: Namespace of the predictors; their series carry it as a label.
    """
    return CounterSource(metrics.REQUESTS.name, metrics.LATENCY.name, within=f'namespace="{namespace}"')


def queries_for(
    guardrails: Sequence[Guardrail],
    arms: Sequence[ArmTarget],
    model: str,
    assignment: Literal["request", "user"] = "request",
    source: CounterSource = AT_LOCAL_GATEWAY,
) -> tuple[Query, ...]:
    """Returns what to read for each guardrail and arm, and how much each arm was given.

    Args:
        guardrails: Of the policy.
        arms: The versions that are compared.
        model: Their model.
        assignment: Whether each request is drawn anew or a user stays with a version. In the latter case the split is
            judged by new users: requests of one user go to one version together, and vary by far more.
        source: Where requests, errors and latency are counted.
    """
    queries: list[Query] = []
    for arm in arms:
        by_version, by_arm = source.by_version(model, arm.version), source.by_arm(arm, model)
        given = (
            Counter(metrics.NEW_USERS.name, by_version) if assignment == "user" else Counter(source.requests, by_arm)
        )
        queries.append(CountQuery(ASSIGNMENT, arm.arm, given, given))
        for guardrail in guardrails:
            queries.extend(_query(part, arm.arm, by_arm, by_version, source) for part in guardrail.parts())
    return tuple(queries)


def resource_queries(
    arms: Sequence[ArmTarget], model: str, source: CounterSource = AT_LOCAL_GATEWAY
) -> tuple[ResourceQuery, ...]:
    """Returns what to read for the cost of each arm's answers, from its predictors.

    Args:
        arms, model, source: As for `queries_for`.
    """
    return tuple(
        ResourceQuery(
            arm.arm,
            Counter(metrics.PROCESS_CPU.name, matchers),
            Counter(metrics.REQUESTS.name, matchers),
            f"{metrics.PROCESS_MEMORY.name}{{{matchers}}}",
        )
        for arm in arms
        for matchers in (source.by_version(model, arm.version),)
    )


def _query(guardrail: Guardrail, arm: str, by_arm: str, by_version: str, source: CounterSource) -> Query:
    requests = Counter(source.requests, by_arm)
    predictions = Counter(metrics.PREDICTIONS.name, by_version)
    match guardrail.kind:
        case "errors":
            # 429 comes from a version that has more to do than it can.
            errors = Counter(source.requests, f'{by_arm},code=~"5..|429"')
            return CountQuery(guardrail.name, arm, errors, requests)
        case "latency":
            histogram = source.latency
            total = Counter(f"{histogram}_count", by_arm)
            bound = f'{by_arm},le="{guardrail.objective:g}"'
            slow = Counter(f"{histogram}_count", by_arm, f"{histogram}_bucket", bound)
            return CountQuery(guardrail.name, arm, slow, total)
        case "fallbacks":
            return CountQuery(guardrail.name, arm, Counter(metrics.FALLBACKS.name, by_version), predictions)
        case "empty":
            return CountQuery(guardrail.name, arm, Counter(metrics.EMPTY.name, by_version), predictions)
        case "clicks":
            of_users = guardrail.unit == "user"
            clicked = metrics.JOINED_CLICKED_USERS if of_users else metrics.JOINED_CLICKED
            joined = metrics.JOINED_USERS if of_users else metrics.JOINED_REQUESTS
            return CountQuery(guardrail.name, arm, Counter(clicked.name, by_version), Counter(joined.name, by_version))
        case "counters":
            assert guardrail.counters is not None
            events, total_name = guardrail.counters.events, guardrail.counters.total
            return CountQuery(guardrail.name, arm, Counter(events, by_version), Counter(total_name, by_version))
        case "mean":
            assert guardrail.maximum is not None
            of_users, of_type = guardrail.unit == "user", f'{by_version},type="{guardrail.value}"'
            values = metrics.JOINED_USER_VALUE if of_users else metrics.JOINED_VALUE
            squares = metrics.JOINED_USER_VALUE_SQUARES if of_users else metrics.JOINED_VALUE_SQUARES
            joined = metrics.JOINED_USERS if of_users else metrics.JOINED_REQUESTS
            return MomentsQuery(
                guardrail.name,
                arm,
                Counter(values.name, of_type),
                Counter(squares.name, of_type),
                Counter(joined.name, by_version),
                guardrail.maximum,
            )
        case "ndcg" | "auc":
            of_type = f'measure="{guardrail.measure}",type="{guardrail.value or CLICK}",unit="{guardrail.unit}"'
            sums, sums_of_squares, ranked = (
                Counter(metric.name, f"{by_version},{of_type}")
                for metric in (metrics.JOINED_RANKING, metrics.JOINED_RANKING_SQUARES, metrics.JOINED_RANKED)
            )
            return MomentsQuery(guardrail.name, arm, sums, sums_of_squares, ranked, guardrail.scale)
        case "agreement" | "rank_correlation" | "score_difference":
            return _similarity_query(guardrail, arm, by_version)
        case "scores":
            return HistogramQuery(guardrail.name, arm, Counter(f"{metrics.SCORES.name}_bucket", by_version))


def _similarity_query(guardrail: Guardrail, arm: str, by_version: str) -> MomentsQuery:
    at = "" if guardrail.at is None else f',at="{guardrail.at}"'
    values, squares, pairs = {
        "agreement": (metrics.SHADOW_AGREEMENT, metrics.SHADOW_AGREEMENT_SQUARES, metrics.SHADOW_PAIRS)
        if guardrail.at is None
        else (metrics.SHADOW_AGREEMENT_AT, metrics.SHADOW_AGREEMENT_AT_SQUARES, metrics.SHADOW_PAIRS),
        "rank_correlation": (metrics.SHADOW_RANK, metrics.SHADOW_RANK_SQUARES, metrics.SHADOW_RANK_PAIRS),
        "score_difference": (metrics.SHADOW_SCORE, metrics.SHADOW_SCORE_SQUARES, metrics.SHADOW_SCORE_PAIRS),
    }[guardrail.kind]
    sums, sums_of_squares = (Counter(metric.name, f"{by_version}{at}") for metric in (values, squares))
    return MomentsQuery(guardrail.name, arm, sums, sums_of_squares, Counter(pairs.name, by_version), 1.0)
