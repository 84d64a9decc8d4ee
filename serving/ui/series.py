"""The history as lines of a chart: weights over time, and each guardrail's interval against its margin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slipway.serving.rollout.event_stream import Decision

LARGEST = 400
"""Looks that a chart gets; more cannot be told apart on a screen."""


def series_of(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Returns {"weights": [...], "in_force": [...], "events": [...], "guardrails": {"name/arm": [...]}}, thinned out.

    Args:
        decisions: All decisions so far, oldest first.
    """
    looks = thinned([decision for decision in decisions if decision.guardrails])
    return {
        "weights": weight_points(decisions),
        "in_force": in_force_points(decisions),
        "events": event_points(decisions),
        "guardrails": guardrail_points(looks),
    }


def weight_points(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Returns the moments at which the decided weights changed."""
    points: list[dict[str, Any]] = []
    for decision in decisions:
        if decision.weights and (not points or points[-1]["weights"] != decision.weights):
            points.append({"at": decision.at, "sequence": decision.sequence, "weights": decision.weights})
    return points


def in_force_points(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Returns the moments at which other weights came into force."""
    return [
        {"at": decision.at, "sequence": decision.sequence, "weights": decision.in_force}
        for decision in decisions
        if decision.in_force
    ]


def event_points(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Returns what happened, with its moment."""
    return [
        {"at": decision.at, "sequence": decision.sequence, "phase": decision.phase, **event}
        for decision in decisions
        for event in decision.events
    ]


def guardrail_points(looks: Sequence[Decision]) -> dict[str, list[dict[str, Any]]]:
    """Returns the points of each guardrail and arm, by "name/arm"."""
    points: dict[str, list[dict[str, Any]]] = {}
    kept = ("measure", "value", "lower", "upper", "margin", "outcome", "samples", "stable_samples", "met")
    for look in looks:
        for verdict in look.guardrails:
            point = {"at": look.at, "sequence": look.sequence, **{name: verdict.get(name) for name in kept}}
            points.setdefault(f"{verdict['guardrail']}/{verdict['arm']}", []).append(point)
    return points


def thinned(looks: Sequence[Decision], largest: int = LARGEST) -> list[Decision]:
    """Returns at most about `largest` looks: first, last, each at which a verdict changed, and others evenly spread."""
    if len(looks) <= largest:
        return list(looks)
    every = -(-len(looks) // largest)
    kept = []
    before: list[str] = []
    for index, look in enumerate(looks):
        outcomes = [str(verdict["outcome"]) for verdict in look.guardrails]
        if index % every == 0 or index == len(looks) - 1 or outcomes != before:
            kept.append(look)
        before = outcomes
    return kept
