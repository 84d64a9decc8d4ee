"""Where a rollout stands, for programs and for people; the same here and on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway.cli.output import table_of
from slipway.cli.rollout_places import Rollout

if TYPE_CHECKING:
    from rich.table import Table

    from slipway.serving.rollout.store import Record


def summary_of(folder: Rollout) -> dict[str, Any]:
    """Returns where a rollout stands, in one line's worth of fields."""
    record = folder.read()
    spec = folder.spec
    state = record.state if record else None
    return {
        "rollout": folder.id,
        "candidate": state.candidate.arm if state else spec.candidates[0].arm,
        "candidates": [candidate.arm for candidate in spec.candidates],
        "stable": spec.stable.arm if spec.stable else None,
        "phase": str(state.phase) if state else "Pending",
        "step": f"{state.step + 1}/{len(spec.policy.steps)}" if state else None,
        "weight": state.weights.get(state.candidate.arm, 0) if state else 0,
        "weights": dict(state.weights) if state else {},
        "mirrors": dict(state.mirrors) if state else {},
        "dropped": dict(state.dropped) if state else {},
        "reason": state.reason if state else "",
    }


def status_of(folder: Rollout, record: Record | None) -> dict[str, Any]:
    """Returns the summary with alarm and verdicts, for programs."""
    from slipway.serving.rollout.core.serialization import to_plain

    verdicts = to_plain(record.state.verdicts) if record else []
    return {**summary_of(folder), "alarm": record.state.alarm if record else "", "verdicts": verdicts}


def status_table(folder: Rollout, record: Record | None) -> Table:
    """Returns the verdicts as a table, under where the rollout stands."""
    summary = summary_of(folder)
    title = (
        f"{summary['rollout']}: {summary['candidate']} over {summary['stable'] or 'nothing'}  "
        f"phase {summary['phase']}  step {summary['step']}  weight {summary['weight']} %"
    )
    if summary["reason"]:
        title += f"\n{summary['reason']}"
    if record and record.state.alarm:
        title += f"\nALARM {record.state.alarm}"
    rows = [
        {
            "guardrail": verdict.guardrail + (" (dry run)" if verdict.dry_run else ""),
            "verdict": str(verdict.outcome),
            "requires": verdict.requirement,
            "candidate": _seen(verdict.measure, verdict.candidate_rate),
            "stable": _seen(verdict.measure, verdict.stable_rate),
            "measure": verdict.measure,
            "bounds": f"{_number(verdict.lower)} .. {_number(verdict.upper)}",
            "margin": _number(verdict.margin),
            "samples": f"{verdict.samples:,} / {verdict.stable_samples:,}",
        }
        for verdict in (record.state.verdicts if record else ())
    ]
    columns = ["guardrail", "verdict", "requires", "candidate", "stable", "measure", "bounds", "margin", "samples"]
    return table_of(rows, columns, title=title)


def _seen(measure: str, value: float | None) -> str:
    """Returns a share of events, or a mean in the unit of its values."""
    if value is None:
        return "-"
    return f"{value:.4g}" if measure == "mean_difference" else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
