"""How `slipway rollout explain` and `history` show the decisions of a rollout to a person."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slipway.cli.output import plain

Decision = Mapping[str, Any]


def history_rows(decisions: Sequence[Decision]) -> list[dict[str, str]]:
    """Returns the rows of the table: one an event, and one for a look that changed nothing."""
    return [
        {"at": _clock(decision["at"]), "kind": kind, "message": message}
        for decision in decisions
        for kind, message in _messages(decision)
    ]


def decision_line(message: Mapping[str, Any], output: str) -> str:
    """Returns one message of the stream as it is followed: JSON on one line, a YAML document, or words."""
    if output == "json":
        return json.dumps(plain(message), allow_nan=False, separators=(",", ":"))
    if output == "yaml":
        import yaml

        return str(yaml.safe_dump(plain(message), sort_keys=False, allow_unicode=True, explicit_start=True)).rstrip()
    if message["type"] == "end":
        return f"{_clock(message['at'])}  ended as {message['phase']}: {message['reason']}"
    return "\n".join(f"{_clock(message['at'])}  {kind:<9} {text}" for kind, text in _messages(message))


def explanation_text(document: Mapping[str, Any], *, all_looks: bool) -> str:
    """Returns the explanation for a terminal.

    Args:
        document: What `explanation_of` returned.
        all_looks: Every look; else only those at which something happened, and the last one.
    """
    decisions = document["decisions"]
    by_sequence = {decision["sequence"]: decision for decision in decisions}
    last = max((decision["sequence"] for decision in decisions if decision["guardrails"]), default=0)
    lines = list(_heading(document))
    for decision in decisions:
        if not (all_looks or decision["events"] or decision["sequence"] == last):
            continue
        lines += ["", f"{_clock(decision['at'])}  {_place(decision)}".rstrip()]
        lines += [f"  {text}" for _, text in _messages(decision)]
        evidence = by_sequence.get(decision["evidence"])
        if evidence is None:
            continue
        if evidence is not decision:
            lines.append(f"  It rests on the look of {_clock(evidence['at'])}.")
            continue
        several = len({verdict["arm"] for verdict in decision["guardrails"]}) > 1
        for verdict in decision["guardrails"]:
            lines += _verdict(verdict, several=several)
    lines += _resources(document["resources"])
    outcomes = {verdict["outcome"] for decision in decisions for verdict in decision["guardrails"]}
    if outcomes:
        meanings = document["meanings"]["verdicts"]
        lines += ["", "What the verdicts mean:"]
        lines += [f"  {outcome:<13} {meanings[outcome]}" for outcome in meanings if outcome in outcomes]
    return "\n".join(lines)


def _resources(resources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what an answer of each version costs, which decides nothing."""
    if not resources:
        return []
    lines = ["", "What an answer costs (since the first traffic; decides nothing):"]
    for arm, use in sorted(resources.items()):
        cost = (
            "no answers"
            if use["cpu_milliseconds"] is None
            else f"{use['cpu_milliseconds']:.3g} ms of a processor, {use['mebibyte_seconds']:.3g} MiB for a second"
        )
        lines.append(
            f"  {arm:<13} {cost}; {use['mebibytes']:.0f} MiB a process, {use['processes']} of them; "
            f"{use['answers']:,.0f} answers"
        )
    return lines


def _heading(document: Mapping[str, Any]) -> Iterator[str]:
    names = ", ".join(candidate["arm"] for candidate in document["candidates"])
    over = f" over {document['stable']['arm']}" if document["stable"] else ""
    yield f"{document['rollout']}: {names}{over}"
    yield f"{document['phase']}, step {document['step']} of {document['steps']}. {document['reason']}".rstrip()
    if document["alarm"]:
        yield f"ALARM: {document['alarm']}"


def _place(decision: Decision) -> str:
    if not decision["weights"]:
        return ""
    return f"step {decision['step']}  " + ", ".join(f"{arm} {weight} %" for arm, weight in decision["weights"].items())


def _messages(decision: Decision) -> list[tuple[str, str]]:
    if decision["events"]:
        return [(event["kind"], event["message"]) for event in decision["events"]]
    verdicts = ", ".join(f"{verdict['guardrail']} {verdict['outcome']}" for verdict in decision["guardrails"])
    return [("verdicts", f"{decision['rule']} ({verdicts})" if decision["rule"] else verdicts)]


def _verdict(verdict: Mapping[str, Any], *, several: bool) -> Iterator[str]:
    indent = " " * 19
    name = f"{verdict['guardrail']} {verdict['arm']}" if several else verdict["guardrail"]
    yield f"    {name:<14} {verdict['outcome']:<13} {verdict['explanation']}"
    bounds = f"{_number(verdict['lower'])} to {_number(verdict['upper'])}, margin {_number(verdict['margin'])}"
    measure = str(verdict["measure"]).replace("_", " ")
    samples = f"{verdict['step_samples']:,} of {verdict['minimum_samples']:,} samples at this step"
    yield f"{indent}{measure} {bounds}; requires {verdict['requirement']}; {samples}"
    for arm, query in verdict["queries"].items():
        yield f"{indent}{arm}: {_reading(verdict['readings'].get(arm))}{query}"


def _reading(reading: Mapping[str, Any] | None) -> str:
    if reading is None:
        return ""
    span = f"{_clock(reading['start'])} to {_clock(reading['end'])}"
    if "events" in reading:
        return f"{reading['events']:g} of {reading['n']:g}, {span}; "
    if "total" in reading:
        return f"sum {reading['total']:g} of {reading['n']:g}, {span}; "
    return f"{sum(reading['counts']):g} values, {span}; "


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
