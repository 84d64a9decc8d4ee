"""What the controller exports is what the state says, and only what the contract names."""

from __future__ import annotations

import math

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rollout_playback import CANDIDATE, STABLE, Player

from slipway.contracts.errors import ServiceError
from slipway.contracts.metrics import CONTROLLER_METRICS
from slipway.serving.rollout.core.types import Phase, RecordEvent
from slipway.serving.rollout.exported_metrics import ControllerMetrics
from slipway.serving.rollout.store import RolloutFolder

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(metrics: ControllerMetrics) -> Samples:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
    wanted = set(labels.items())
    return {found: value for (metric, found), value in samples.items() if metric == name and wanted <= found}


def only(samples: Samples, name: str, **labels: str) -> float:
    (value,) = of(samples, name, **labels).values()
    return value


def test_the_metrics_say_what_the_state_says(folder: RolloutFolder) -> None:
    state = Player(folder).play(12).record.state
    metrics = ControllerMetrics()
    metrics.show(folder.spec, state, [RecordEvent(1.0, "phase", "x"), RecordEvent(1.0, "alarm", "y")])
    samples = scraped(metrics)
    phases = of(samples, "slipway_rollout_phase", rollout=folder.id, model="films")
    assert len(phases) == len(Phase)
    assert sum(phases.values()) == 1
    assert only(samples, "slipway_rollout_phase", phase=state.phase.value) == 1
    assert only(samples, "slipway_rollout_step") == state.step + 1
    assert only(samples, "slipway_rollout_weight", arm=CANDIDATE) == state.weights[CANDIDATE] > 0
    assert only(samples, "slipway_rollout_weight", arm=STABLE) == state.weights[STABLE]
    for verdict in state.verdicts:
        judged = {"guardrail": verdict.guardrail, "arm": verdict.arm}
        assert sum(of(samples, "slipway_rollout_verdict", **judged).values()) == 1
        assert only(samples, "slipway_rollout_verdict", outcome=verdict.outcome.value, **judged) == 1
        lower = only(samples, "slipway_rollout_bound", side="lower", **judged)
        assert lower == (-math.inf if verdict.lower is None else verdict.lower)
        assert only(samples, "slipway_rollout_margin", **judged) == verdict.margin
        assert only(samples, "slipway_rollout_samples", **judged) == verdict.samples
    assert only(samples, "slipway_rollout_decisions_total", kind="phase") == 1
    assert only(samples, "slipway_rollout_decisions_total", kind="refused") == 0


def test_looks_and_errors_are_counted(folder: RolloutFolder) -> None:
    metrics = ControllerMetrics()
    assert of(scraped(metrics), "slipway_rollout_phase") == {}
    metrics.ticked(0.004)
    metrics.ticked(0.3, ServiceError("away"))
    samples = scraped(metrics)
    assert only(samples, "slipway_rollout_ticks_total") == 2
    assert only(samples, "slipway_rollout_errors_total", error="ServiceError") == 1
    assert only(samples, "slipway_rollout_tick_duration_seconds_bucket", le="0.005") == 1
    assert only(samples, "slipway_rollout_last_tick_timestamp_seconds") > 1.7e9


def test_every_metric_of_the_contract_is_exported_with_its_labels(folder: RolloutFolder) -> None:
    metrics = ControllerMetrics()
    metrics.show(folder.spec, Player(folder).play(12).record.state)
    metrics.ticked(0.1, ServiceError("away"))
    samples = scraped(metrics)
    for definition in CONTROLLER_METRICS:
        name = f"{definition.name}_count" if definition.kind == "histogram" else definition.name
        found = of(samples, name)
        assert found, name
        assert all({label for label, _ in labels} == set(definition.labels) for labels in found), name
    known = {definition.name for definition in CONTROLLER_METRICS}
    for name, _ in samples:
        assert name in known or name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") in known


def test_an_earlier_rollout_leaves_nothing_behind(folder: RolloutFolder) -> None:
    metrics = ControllerMetrics()
    state = Player(folder).play(3).record.state
    metrics.show(folder.spec, state)
    metrics.show(folder.spec.model_copy(update={"id": "another"}), state)
    assert {dict(labels)["rollout"] for labels in of(scraped(metrics), "slipway_rollout_phase")} == {"another"}
