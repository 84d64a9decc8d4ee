"""Every metric that Slipway exports or queries, named once, with its type, labels and help.

Predictors, the collector, the rollout's queries, rules and dashboards take the names from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY_BUCKETS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds, of predictors and gateway alike; a latency objective must be one of them."""

SCORE_BUCKETS = tuple(round(-0.5 + 0.1 * step, 1) for step in range(26))
"""Upper bounds of the histogram of the best score in an answer."""

RANKING_DEPTHS = (1, 3, 5, 10, 20, 50)
"""Values of k at which NDCG@k and agreement@k are exported; a guardrail's `at` must be one of them."""

SMOKE_TEST_HEADER = "x-slipway-smoke-test"
"""Marks a request of the smoke test, which a predictor answers but does not count; gateways remove it from outside."""

SHADOW_HEADER = "x-slipway-shadow"
"""Marks a copy of a request, whose answer reaches nobody and gets no feedback; gateways remove it from outside."""


@dataclass(frozen=True)
class MetricDefinition:
    """One metric: name as Prometheus shows it, kind, label names, help text and, for histograms, bucket bounds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


_ARM = ("model", "version")

REQUESTS = MetricDefinition(
    "slipway_requests_total", "counter", (*_ARM, "code"), "Prediction requests answered, by status code."
)
LATENCY = MetricDefinition(
    "slipway_request_duration_seconds", "histogram", _ARM, "Time to answer a prediction request.", LATENCY_BUCKETS
)
PREDICTIONS = MetricDefinition(
    "slipway_predictions_total", "counter", _ARM, "Entities answered; a request may hold several."
)
SCORES = MetricDefinition("slipway_scores", "histogram", _ARM, "Best score of each answer.", SCORE_BUCKETS)
FALLBACKS = MetricDefinition(
    "slipway_fallbacks_total", "counter", (*_ARM, "reason"), "Entities answered by the fallback, by reason."
)
EMPTY = MetricDefinition("slipway_empty_total", "counter", _ARM, "Entities answered with no item at all.")
FEATURE_AGE = MetricDefinition(
    "slipway_feature_age_seconds", "gauge", (*_ARM, "view"), "Age of the oldest feature row in the last read."
)
FEATURE_READ = MetricDefinition(
    "slipway_feature_read_seconds", "histogram", _ARM, "Time to read features from the online store.", LATENCY_BUCKETS
)
FEATURE_STATUS = MetricDefinition(
    "slipway_feature_rows_total",
    "counter",
    (*_ARM, "view", "status"),
    "Feature rows read: present, missing, expired, unreachable.",
)
EVENTS_DROPPED = MetricDefinition(
    "slipway_events_dropped_total", "counter", _ARM, "Prediction events that could not be handed to the collector."
)
IN_FLIGHT = MetricDefinition("slipway_requests_in_flight", "gauge", _ARM, "Prediction requests being answered now.")
BUNDLE_INFO = MetricDefinition(
    "slipway_bundle_info", "gauge", (*_ARM, "sha256", "family"), "1 for the bundle that is loaded."
)

FEEDBACK = MetricDefinition(
    "slipway_feedback_total",
    "counter",
    ("model", "outcome"),
    "Feedback received: accepted, duplicate, expired, forged, unknown, late.",
)
JOINED_REQUESTS = MetricDefinition(
    "slipway_joined_requests_total", "counter", _ARM, "Answered requests whose waiting time for feedback has passed."
)
JOINED_CLICKED = MetricDefinition(
    "slipway_joined_clicked_requests_total",
    "counter",
    _ARM,
    "Those of them with at least one click within the waiting time.",
)
_VALUE = (*_ARM, "type")
JOINED_VALUE = MetricDefinition(
    "slipway_joined_value_total",
    "counter",
    _VALUE,
    "Sum over joined requests of the feedback values of a type that came within the waiting time, cut at its maximum.",
)
JOINED_VALUE_SQUARES = MetricDefinition(
    "slipway_joined_value_squares_total", "counter", _VALUE, "Sum of the squares of the same."
)
_RANKING = (*_ARM, "measure", "type", "unit")
JOINED_RANKING = MetricDefinition(
    "slipway_joined_ranking_total",
    "counter",
    _RANKING,
    "Sum over joined requests, or over users (of their first answer), of how well the answer ranked what got feedback "
    "of a type: ndcg@k or auc, 0 to 1.",
)
JOINED_RANKING_SQUARES = MetricDefinition(
    "slipway_joined_ranking_squares_total", "counter", _RANKING, "Sum of the squares of the same."
)
JOINED_RANKED = MetricDefinition(
    "slipway_joined_ranked_total", "counter", _RANKING, "Joined requests, or users, that the sum is over."
)
JOINED_UNRANKED = MetricDefinition(
    "slipway_joined_unranked_total",
    "counter",
    _RANKING,
    "Joined requests, or users, left out of it: for auc, those with feedback on all items or none, or without scores.",
)
NEW_USERS = MetricDefinition(
    "slipway_new_users_total",
    "counter",
    _ARM,
    "Users seen for the first time since the model's newest version began to answer, by the version that answered.",
)
JOINED_USERS = MetricDefinition(
    "slipway_joined_users_total",
    "counter",
    _ARM,
    "New users whose first request has passed its waiting time for feedback; each counts for one version, once.",
)
JOINED_CLICKED_USERS = MetricDefinition(
    "slipway_joined_clicked_users_total", "counter", _ARM, "Those of them with a click on that first answer."
)
JOINED_USER_VALUE = MetricDefinition(
    "slipway_joined_user_value_total",
    "counter",
    _VALUE,
    "Sum over joined users of the feedback values of a type on their first answer, cut at its maximum.",
)
JOINED_USER_VALUE_SQUARES = MetricDefinition(
    "slipway_joined_user_value_squares_total", "counter", _VALUE, "Sum of the squares of the same."
)

SHADOW_PAIRS = MetricDefinition(
    "slipway_shadow_pairs_total", "counter", _ARM, "Answers of a version to copies that were compared with the user's."
)
SHADOW_UNPAIRED = MetricDefinition(
    "slipway_shadow_unpaired_total", "counter", _ARM, "Answers to copies whose user's answer was not found in time."
)
SHADOW_AGREEMENT = MetricDefinition(
    "slipway_shadow_agreement_total", "counter", _ARM, "Sum of the share of the top k in common, 0 to 1 a pair."
)
SHADOW_AGREEMENT_SQUARES = MetricDefinition(
    "slipway_shadow_agreement_squares_total", "counter", _ARM, "Sum of the squares of these shares."
)
SHADOW_AGREEMENT_AT = MetricDefinition(
    "slipway_shadow_agreement_at_total",
    "counter",
    (*_ARM, "at"),
    "Sum of the share of the first `at` items in common (of fewer, where both answers are shorter), 0 to 1 a pair.",
)
SHADOW_AGREEMENT_AT_SQUARES = MetricDefinition(
    "slipway_shadow_agreement_at_squares_total", "counter", (*_ARM, "at"), "Sum of the squares of these shares."
)
SHADOW_RANK_PAIRS = MetricDefinition(
    "slipway_shadow_rank_pairs_total", "counter", _ARM, "Pairs with at least two items in common, which have an order."
)
SHADOW_RANK = MetricDefinition(
    "slipway_shadow_rank_correlation_total",
    "counter",
    _ARM,
    "Sum of Kendall's tau of the items in common, scaled to 0 (reversed) to 1 (same order).",
)
SHADOW_RANK_SQUARES = MetricDefinition(
    "slipway_shadow_rank_correlation_squares_total", "counter", _ARM, "Sum of the squares of these correlations."
)
SHADOW_SCORE_PAIRS = MetricDefinition(
    "slipway_shadow_score_pairs_total", "counter", _ARM, "Pairs with at least one scored item in common."
)
SHADOW_SCORE = MetricDefinition(
    "slipway_shadow_score_difference_total",
    "counter",
    _ARM,
    "Sum of the mean relative difference |a - b| / (|a| + |b|) of the scores of items in common, 0 to 1 a pair.",
)
SHADOW_SCORE_SQUARES = MetricDefinition(
    "slipway_shadow_score_difference_squares_total", "counter", _ARM, "Sum of the squares of these differences."
)

PREDICTOR_METRICS = (
    REQUESTS,
    LATENCY,
    PREDICTIONS,
    SCORES,
    FALLBACKS,
    EMPTY,
    FEATURE_AGE,
    FEATURE_READ,
    FEATURE_STATUS,
    EVENTS_DROPPED,
    IN_FLIGHT,
    BUNDLE_INFO,
)
SHADOW_METRICS = (
    SHADOW_PAIRS,
    SHADOW_UNPAIRED,
    SHADOW_AGREEMENT,
    SHADOW_AGREEMENT_SQUARES,
    SHADOW_AGREEMENT_AT,
    SHADOW_AGREEMENT_AT_SQUARES,
    SHADOW_RANK_PAIRS,
    SHADOW_RANK,
    SHADOW_RANK_SQUARES,
    SHADOW_SCORE_PAIRS,
    SHADOW_SCORE,
    SHADOW_SCORE_SQUARES,
)
JOINED_METRICS = (
    JOINED_REQUESTS,
    JOINED_CLICKED,
    JOINED_VALUE,
    JOINED_VALUE_SQUARES,
    JOINED_RANKING,
    JOINED_RANKING_SQUARES,
    JOINED_RANKED,
    JOINED_UNRANKED,
    NEW_USERS,
    JOINED_USERS,
    JOINED_CLICKED_USERS,
    JOINED_USER_VALUE,
    JOINED_USER_VALUE_SQUARES,
)
COLLECTOR_METRICS = (FEEDBACK, *JOINED_METRICS)

PROCESS_CPU = MetricDefinition(
    "process_cpu_seconds_total", "counter", _ARM, "Processor time of a process; labels of a predictor's target."
)
PROCESS_MEMORY = MetricDefinition(
    "process_resident_memory_bytes", "gauge", _ARM, "Memory of a process; labels of a predictor's target."
)
GATEWAY_REQUESTS = MetricDefinition(
    "traefik_service_requests_total",
    "counter",
    ("service", "code", "method", "protocol"),
    "Traefik: attempts per service.",
)
GATEWAY_LATENCY = MetricDefinition(
    "traefik_service_request_duration_seconds",
    "histogram",
    ("service", "code", "method", "protocol"),
    "Traefik: time per attempt.",
    LATENCY_BUCKETS,
)

_ROLLOUT = ("model", "rollout")
_JUDGED = (*_ROLLOUT, "guardrail", "arm")

ROLLOUT_PHASE = MetricDefinition(
    "slipway_rollout_phase", "gauge", (*_ROLLOUT, "phase"), "1 for the phase that the rollout is in, 0 for every other."
)
ROLLOUT_STEP = MetricDefinition("slipway_rollout_step", "gauge", _ROLLOUT, "Step of the policy, counted from 1.")
ROLLOUT_WEIGHT = MetricDefinition(
    "slipway_rollout_weight", "gauge", (*_ROLLOUT, "arm"), "Percent of traffic that was decided for the arm."
)
ROLLOUT_VERDICT = MetricDefinition(
    "slipway_rollout_verdict",
    "gauge",
    (*_JUDGED, "outcome"),
    "1 for the verdict of the guardrail on the arm (PASS, FAIL, INCONCLUSIVE, ERROR), 0 for every other.",
)
ROLLOUT_MET = MetricDefinition(
    "slipway_rollout_requirement_met", "gauge", _JUDGED, "1 where the guardrail fulfils what the step requires, else 0."
)
ROLLOUT_BOUND = MetricDefinition(
    "slipway_rollout_bound",
    "gauge",
    (*_JUDGED, "measure", "side"),
    "Bound of the interval that holds over all looks, by side (lower, upper); +Inf or -Inf where nothing is known.",
)
ROLLOUT_MARGIN = MetricDefinition(
    "slipway_rollout_margin", "gauge", (*_JUDGED, "measure"), "Tolerated margin, in the unit of the bounds."
)
ROLLOUT_SAMPLES = MetricDefinition(
    "slipway_rollout_samples", "gauge", _JUDGED, "Samples of the arm that the verdict rests on."
)
ROLLOUT_DECISIONS = MetricDefinition(
    "slipway_rollout_decisions_total",
    "counter",
    ("model", "kind"),
    "Decisions since the controller started: changes of phase or step, commands, alarms, refused versions.",
)
ROLLOUT_TICKS = MetricDefinition("slipway_rollout_ticks_total", "counter", (), "Looks of the controller.")
ROLLOUT_TICK_DURATION = MetricDefinition(
    "slipway_rollout_tick_duration_seconds", "histogram", (), "Time of one look.", LATENCY_BUCKETS
)
ROLLOUT_LAST_TICK = MetricDefinition(
    "slipway_rollout_last_tick_timestamp_seconds", "gauge", (), "Unix time at which the last look ended."
)
ROLLOUT_ERRORS = MetricDefinition(
    "slipway_rollout_errors_total", "counter", ("error",), "Looks that ended with an error, by its kind."
)

CONTROLLER_METRICS = (
    ROLLOUT_PHASE,
    ROLLOUT_STEP,
    ROLLOUT_WEIGHT,
    ROLLOUT_VERDICT,
    ROLLOUT_MET,
    ROLLOUT_BOUND,
    ROLLOUT_MARGIN,
    ROLLOUT_SAMPLES,
    ROLLOUT_DECISIONS,
    ROLLOUT_TICKS,
    ROLLOUT_TICK_DURATION,
    ROLLOUT_LAST_TICK,
    ROLLOUT_ERRORS,
)

OPERATOR_LEADER = MetricDefinition(
    "slipway_operator_leader", "gauge", (), "1 while this operator holds the Lease, 0 while it stands by."
)
OPERATOR_ROLLOUTS = MetricDefinition(
    "slipway_operator_rollouts", "gauge", ("phase",), "Rollouts that this operator looks after, by phase."
)
OPERATOR_QUEUE_DEPTH = MetricDefinition(
    "slipway_operator_queue_depth", "gauge", (), "Rollouts that are due and not being looked at yet."
)
OPERATOR_API_CALLS = MetricDefinition("slipway_operator_api_calls_total", "counter", (), "Calls to the API server.")
OPERATOR_RESTORED = MetricDefinition(
    "slipway_operator_restored_total",
    "counter",
    ("reason",),
    "Objects put right after others changed or deleted them, by reason: RouteRestored, InferenceServiceRestored.",
)
OPERATOR_METRICS = (
    *CONTROLLER_METRICS,
    OPERATOR_LEADER,
    OPERATOR_ROLLOUTS,
    OPERATOR_QUEUE_DEPTH,
    OPERATOR_API_CALLS,
    OPERATOR_RESTORED,
)

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
