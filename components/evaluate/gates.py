"""Gates: each bound checked against what was measured. What was not measured, or is no number, did not pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.contracts.evaluation import GateResult, GateSpec

MINIMUM_USERS = "minimum_users"


def check_gates(
    summary: Mapping[str, Any], gates: Sequence[GateSpec], *, minimum_users: int, has_champion: bool
) -> list[GateResult]:
    """Checks every bound of every gate, and that enough users were evaluated.

    Args:
        summary: Content of metrics.json.
        gates: From the project file.
        minimum_users: Fewer evaluable users than this are no evidence.
        has_champion: Whether there was a champion to compare with; without one such gates pass.
    """
    users = int(summary["protocol"]["users"])
    results = [
        GateResult(
            gate=MINIMUM_USERS,
            metric="users",
            value=users,
            bound=minimum_users,
            relation=">=",
            passed=users >= minimum_users,
            why=f"{users:,} users were evaluated, {minimum_users:,} are needed",
        )
    ]
    for gate in gates:
        results += _check(summary, gate, has_champion)
    return results


def _check(summary: Mapping[str, Any], gate: GateSpec, has_champion: bool) -> list[GateResult]:
    group: Mapping[str, Any] | None = summary if gate.slice is None else summary["slices"].get(gate.slice)
    measured = (group or {}).get("metrics", {}).get(gate.metric, {}).get("value")
    results = []
    if gate.minimum is not None:
        results.append(_bound(gate, measured, gate.minimum, ">=", group))
    if gate.maximum is not None:
        results.append(_bound(gate, measured, gate.maximum, "<=", group))
    if gate.against is not None:
        assert gate.minimum_change is not None
        results.append(_change(gate, group, gate.minimum_change, has_champion))
    return results


def _bound(
    gate: GateSpec, value: float | None, bound: float, relation: str, group: Mapping[str, Any] | None
) -> GateResult:
    if value is None:
        passed, why = False, _absent(gate, group)
    else:
        passed = value >= bound if relation == ">=" else value <= bound
        why = f"{gate.label} is {value:.4f}, {'at least' if relation == '>=' else 'at most'} {bound:g} is required"
    return GateResult(
        gate=f"{gate.label} {relation} {bound:g}",
        metric=gate.metric,
        slice=gate.slice,
        value=value,
        bound=bound,
        relation=">=" if relation == ">=" else "<=",
        passed=passed,
        why=why,
    )


def _change(gate: GateSpec, group: Mapping[str, Any] | None, bound: float, has_champion: bool) -> GateResult:
    entry = (group or {}).get("against", {}).get(gate.against, {}).get(gate.metric, {})
    value = entry.get("change_low")
    if gate.against == "champion" and not has_champion:
        passed, why = True, "there is no champion yet"
    elif value is None:
        passed = False
        zero = entry.get("reference") == 0
        why = f"{gate.label} of {gate.against} is 0: no change can be computed" if zero else _absent(gate, group)
    else:
        passed = value >= bound
        why = (
            f"{gate.label} changes by {entry['change']:+.1%} against {gate.against}, at least {value:+.1%} by its "
            f"interval; {bound:+.1%} is required"
        )
    return GateResult(
        gate=f"{gate.label} change against {gate.against} >= {bound:+g}",
        metric=gate.metric,
        slice=gate.slice,
        against=gate.against,
        value=value,
        bound=bound,
        relation=">=",
        passed=passed,
        why=why,
    )


def _absent(gate: GateSpec, group: Mapping[str, Any] | None) -> str:
    if group is None:
        return f"there is no slice {gate.slice}: nobody belongs to it"
    return f"{gate.label} was not measured or is not a finite number"
