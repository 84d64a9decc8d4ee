"""The evaluation as a page of Markdown: gates, metrics beside their references, slices, protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.contracts.evaluation import GateResult, protocol_line


def markdown(summary: Mapping[str, Any], gates: Sequence[GateResult], warnings: Sequence[str]) -> str:
    """Returns the report.

    Args:
        summary: Content of metrics.json.
        gates: Every bound that was checked.
        warnings: What the reader must know first.
    """
    failed = sum(not gate.passed for gate in gates)
    verdict = "All gates passed." if not failed else f"{failed} of {len(gates)} gates failed."
    lines = ["# Evaluation", "", verdict, ""]
    lines += [f"> **Warning:** {warning}\n" for warning in warnings]
    lines += ["## Metrics", "", f"Protocol of every number here: {protocol_line(summary['protocol'])}.", ""]
    lines += _metrics(summary)
    lines += [f"Intervals: {summary['protocol']['interval']}. Changes are paired over the same users.", ""]
    lines += ["## Gates", "", "| gate | value | bound | passed | why |", "|---|---:|---:|---|---|"]
    lines += [
        f"| {gate.gate} | {_number(gate.value)} | {gate.relation} {gate.bound:g} "
        f"| {'yes' if gate.passed else '**no**'} | {gate.why} |"
        for gate in gates
    ]
    lines += ["", "## Slices", ""]
    lines += _slices(summary)
    lines += ["## Definitions", ""]
    lines += [f"- `{name}`: {entry['definition']}" for name, entry in summary["metrics"].items()]
    lines += ["", "## Protocol", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in summary["protocol"].items() if name != "split"]
    return "\n".join(lines) + "\n"


def _metrics(summary: Mapping[str, Any]) -> list[str]:
    references = list(summary["against"])
    head = ["metric", "value", "interval"]
    for name in references:
        head += [name, f"change against {name}"]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for metric, entry in summary["metrics"].items():
        cells = [metric, _number(entry["value"]), _interval(entry.get("low"), entry.get("high"))]
        for name in references:
            other = summary["against"][name].get(metric, {})
            cells += [_number(other.get("reference")), _change(other)]
        lines.append(_row(cells))
    return [*lines, ""]


def _slices(summary: Mapping[str, Any]) -> list[str]:
    if not summary["slices"]:
        return ["None were asked for.", ""]
    names = [
        metric for metric in summary["metrics"] if metric.startswith(("hr@", "ndcg@", "recall@")) or metric == "auc"
    ]
    lines = [_row(["slice", "users", *names]), _row(["---", *["---:"] * (len(names) + 1)])]
    for label, group in summary["slices"].items():
        values = [_number(group["metrics"].get(name, {}).get("value")) for name in names]
        lines.append(_row([label.replace("|", "\\|"), f"{group['users']:,}", *values]))
    definitions = [f"- {name}: {text}" for name, text in summary["slice_definitions"].items()]
    return [*lines, "", *definitions, ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or (value == int(value) and abs(value) > 1) else f"{value:.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _change(entry: Mapping[str, Any]) -> str:
    change, low, high = (entry.get(name) for name in ("change", "change_low", "change_high"))
    if change is None:
        return "-"
    upper = "?" if high is None else f"{high:+.1%}"
    lower = "?" if low is None else f"{low:+.1%}"
    return f"{change:+.1%} ({lower} to {upper})"
