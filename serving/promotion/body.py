"""Title and text of a pull request, and the message of its commit: what a reviewer needs to say yes or no."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.contracts.evaluation import GateResult
from slipway.serving.promotion.audit import AuditLine
from slipway.serving.promotion.candidate import Candidate, Quality

LONGEST_CARD = 40_000
"""Characters; a pull request of GitHub has 65,536 in all."""


def title(line: AuditLine) -> str:
    """Returns the title of a pull request, and the first line of its commit."""
    if line.action == "revert":
        return f"Revert {line.model} in {line.environment} to version {line.wanted.version}, which serves"
    if line.action == "approve":
        return f"Approve {line.model} version {line.wanted.version} for {line.environment}"
    return f"Promote {line.model} version {line.wanted.version} to {line.environment}"


def commit_message(line: AuditLine) -> str:
    """Returns a commit's message; its trailers let `git log --grep` and the host's search find the version."""
    trailers = [
        f"Slipway-Model: {line.model}",
        f"Slipway-Environment: {line.environment}",
        f"Slipway-Version: {line.wanted.version}",
        f"Slipway-Digest: {line.wanted.digest}",
    ]
    reason = [line.reason, ""] if line.reason else []
    return "\n".join([title(line), "", *reason, *trailers]) + "\n"


def promotion_body(
    candidate: Candidate, line: AuditLine, present: Quality | None, *, approvals: int, staged: AuditLine | None
) -> str:
    """Returns the text of a promotion's pull request, in Markdown.

    Args:
        candidate: The version.
        line: What the audit file gets.
        present: Quality of the version that it takes the place of, where known.
        approvals: How many are needed.
        staged: How the version came to the environment before this one.
    """
    parts = [_summary(line, approvals)]
    if line.forced:
        rules = "\n".join(f"> - {_one_line(text)}" for text in line.forced)
        parts.append(f"> **Forced** by {_code(line.by)}: {_one_line(line.reason or '')}\n>\n{rules}")
    if staged is not None:
        parts.append(f"Came to {_code(staged.environment)} on {staged.at:%Y-%m-%d %H:%M} UTC by {_code(staged.by)}.")
    parts.append(_metrics(candidate.quality, present, line))
    parts.append(_gates(candidate.gates))
    if candidate.lineage:
        rows = [f"| {_cell(name)} | {_code(value)} |" for name, value in candidate.lineage.items()]
        parts.append("\n".join(["## Lineage", "", "| | |", "|---|---|", *rows]))
    if candidate.card:
        card = candidate.card
        if len(card) > LONGEST_CARD:
            card = card[:LONGEST_CARD].rpartition("\n")[0] + "\n\n(cut; `slipway models card` prints the whole)"
        parts.append(f"<details><summary>Model card</summary>\n\n{card.strip()}\n\n</details>")
    return "\n\n".join(part for part in parts if part) + "\n"


def revert_body(line: AuditLine) -> str:
    """Returns the text of a revert's pull request, in Markdown."""
    left = line.replaces.version if line.replaces is not None else "?"
    text = (
        f"The rollout of version {left} did not reach all traffic, and version {line.wanted.version} serves. "
        f"This brings Git back to what serves; merging it changes no traffic."
    )
    reason = f"Reason: {_one_line(line.reason)}" if line.reason else ""
    return "\n\n".join(part for part in (text, reason, _summary(line, 0)) if part) + "\n"


def _summary(line: AuditLine, approvals: int) -> str:
    replaced = (
        f"{line.replaces.version} ({_code(line.replaces.digest[:12])})" if line.replaces is not None else "nothing"
    )
    rows = [
        f"| model | {_code(line.model)} |",
        f"| environment | {_code(line.environment)} |",
        f"| version | {line.wanted.version} ({_code(line.wanted.digest[:12])}), from {_code(line.wanted.uri)} |",
        f"| takes the place of | {replaced} |",
        f"| asked for by | {_code(line.by)}{f', {_code(line.login)}' if line.login else ''} |",
    ]
    if line.reason and not line.forced and line.action == "promote":
        rows.append(f"| reason | {_cell(_one_line(line.reason))} |")
    if approvals:
        command = f"slipway promote {line.model} --to {line.environment} --version {line.wanted.version} --approve"
        rows.append(f"| approvals needed | {approvals}; give one with {_code(command)} |")
    return "\n".join(["| | |", "|---|---|", *rows])


def _metrics(quality: Quality, present: Quality | None, line: AuditLine) -> str:
    if not quality.metrics:
        return ""
    version = line.replaces.version if line.replaces is not None else None
    head = ["## Metrics", "", f"{_one_line(quality.protocol)}", ""]
    if present is None:
        note = "" if version is None else f" (version {version}, which it replaces, is not in this registry)"
        rows = [f"| {_cell(name)} | {_number(value)} |" for name, value in quality.metrics.items()]
        return "\n".join([*head, f"| metric | version {line.wanted.version}{note} |", "|---|---:|", *rows])
    if present.protocol != quality.protocol:
        head += [
            f"**Version {version} was measured otherwise**, and does not compare: {_one_line(present.protocol)}",
            "",
        ]
    rows = []
    for name, value in quality.metrics.items():
        before = present.metrics.get(name)
        change = f"{value - before:+.4f}" if value is not None and before is not None else "-"
        rows.append(f"| {_cell(name)} | {_number(before)} | {_number(value)} | {change} |")
    titles = f"| metric | version {version} (present) | version {line.wanted.version} | change |"
    return "\n".join([*head, titles, "|---|---:|---:|---:|", *rows])


def _gates(gates: Sequence[GateResult]) -> str:
    if not gates:
        return "## Gates\n\nNone is set, and none was checked."
    rows = [f"| {_cell(gate.gate)} | {'met' if gate.passed else '**not met**'} | {_cell(gate.why)} |" for gate in gates]
    return "\n".join(["## Gates", "", "| gate | | why |", "|---|---|---|", *rows])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _code(text: str) -> str:
    """Returns a text as code, in which hosts see neither mentions nor links."""
    return f"`{_cell(text).replace('`', chr(39))}`"
