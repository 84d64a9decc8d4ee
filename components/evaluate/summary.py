"""From per-user values to what is reported: means with intervals, changes against references, by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.components.evaluate.judge import Judged, columns_for
from slipway.components.evaluate.slices import Slices
from slipway.components.evaluate.task import Task
from slipway.contracts.evaluation import EvaluationSpec, MetricName, protocol_line
from slipway.contracts.split import SplitSpec
from slipway.models import metrics
from slipway.models.bootstrap import Interval, PairedBootstrap


def protocol_of(task: Task, spec: EvaluationSpec, split: SplitSpec) -> dict[str, Any]:
    """Returns how the numbers came about, as plain data."""
    held_out = {
        "time": f"events from {split.cut} on" if split.cut else f"the last {split.share:.0%} of all events by time",
        "last_share": f"the last {split.share:.0%} of each user's events",
        "leave_last_out": "each user's last event",
        "given": f"the rows that column {split.column} marks as test",
    }[split.method]
    candidates = None if task.candidates is None else np.diff(task.candidates.offsets)
    return {
        "ranking": "full-rank" if candidates is None else "candidates",
        "candidates": spec.candidates,
        "items_ranked": len(task.items) if candidates is None else float(candidates.mean()),
        "seen_items": "excluded" if spec.exclude_seen else "included",
        "split": split.model_dump(mode="json"),
        "held_out": held_out,
        "relevant": "every held-out item" if spec.minimum_rating is None else f"rating >= {spec.minimum_rating:g}",
        "k": list(spec.k),
        "users": len(task.users),
        "users_without_history": task.without_history,
        "relevant_items": int(task.n_relevant.sum()),
        "repeated_items_left_out": task.repeated,
        "interval": f"{spec.confidence:.0%}, percentile bootstrap over users, {spec.bootstrap_samples} resamples, "
        f"seed {spec.seed}",
    }


def summarise(
    task: Task, judged: Mapping[str, Judged], slices: Slices, spec: EvaluationSpec, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of metrics.json.

    Args:
        task: Who was asked for.
        judged: "model" and the references by name.
        slices: Groups to report.
        spec: The evaluation's settings.
        protocol: From `protocol_of`.
    """
    names = columns_for(spec.k)
    line = protocol_line(protocol)
    whole = _group({name: result.table for name, result in judged.items()}, names, spec)
    percentiles = metrics.popularity_percentiles(task.popularity)
    for k in spec.k:
        for name, result in judged.items():
            target = whole["metrics"] if name == "model" else whole["against"][name]
            values = {
                f"coverage@{k}": metrics.coverage(result.lists, k, len(task.items)),
                f"popularity_percentile@{k}": metrics.mean_popularity_percentile(result.lists, k, percentiles),
            }
            for metric, value in values.items():
                target[metric] = {"value" if name == "model" else "reference": finite(value), "users": len(task.users)}
    for metric, entry in whole["metrics"].items():
        entry |= {"protocol": line, "definition": metrics.DEFINITIONS[MetricName.parse(metric).name]}
    by_slice = {}
    for label, mask in slices.users.items():
        tables = {name: np.where(mask[:, None], result.table, np.nan) for name, result in judged.items()}
        by_slice[label] = {"of": "users", **_group(tables, names, spec)}
    for label in slices.items:
        tables = {name: result.by_items[label] for name, result in judged.items()}
        by_slice[label] = {"of": "held-out items", **_group(tables, names, spec)}
    return {
        "protocol": dict(protocol),
        **whole,
        "slices": by_slice,
        "slice_definitions": slices.definitions,
        "fallbacks": {name: result.fallbacks for name, result in judged.items()},
    }


def finite(value: float) -> float | None:
    """Returns the value, or None where it is not a finite number: JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


def _group(tables: Mapping[str, NDArray[np.float64]], names: Sequence[str], spec: EvaluationSpec) -> dict[str, Any]:
    width = len(names)
    order = ["model", *(name for name in tables if name != "model")]
    bootstrap = PairedBootstrap(
        np.concatenate([tables[name] for name in order], axis=1),
        samples=spec.bootstrap_samples,
        seed=spec.seed,
        confidence=spec.confidence,
    )
    values = {}
    for column, metric in enumerate(names):
        values[metric] = _plain(bootstrap.mean(column))
    against: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(order[1:], start=1):
        against[name] = {}
        for column, metric in enumerate(names):
            reference = bootstrap.mean(index * width + column)
            change = bootstrap.relative_change(column, index * width + column)
            against[name][metric] = {
                "reference": finite(reference.value),
                "reference_low": finite(reference.low),
                "reference_high": finite(reference.high),
                "change": finite(change.value),
                "change_low": finite(change.low),
                "change_high": finite(change.high),
                "users": change.users,
            }
    users = int((~np.isnan(tables["model"][:, 0])).sum())
    return {"users": users, "metrics": values, "against": against}


def _plain(interval: Interval) -> dict[str, Any]:
    return {
        "value": finite(interval.value),
        "low": finite(interval.low),
        "high": finite(interval.high),
        "users": interval.users,
    }
