"""The model card (Mitchell et al. 2019): what the model is for, what it was made from, how good it is, its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.contracts.bundle import BundleManifest
from slipway.contracts.evaluation import protocol_line

_LICENCE = (
    "The licence of the training data binds what is made from it. Slipway prints the licence of a sample when it "
    "loads it; for your own data, write it here."
)


def model_card(
    manifest: BundleManifest,
    *,
    sha256: str,
    evaluation: Mapping[str, Any],
    gates: Mapping[str, Any],
    data: Mapping[str, Any],
    lineage: Mapping[str, Any],
    licences: Sequence[str] = (),
) -> str:
    """Returns the card as Markdown.

    Args:
        manifest: Of the registered bundle.
        sha256: Of the bundle.
        evaluation: Content of metrics.json.
        gates: Content of gates.json.
        data: What is known of the data: time range, rows.
        lineage: Everything that says where the model comes from.
        licences: Notices of the data's owners.
    """
    protocol = evaluation["protocol"]
    lines = [
        f"# {manifest.name}",
        "",
        f"A recommender of family `{manifest.family}`: given a user, it ranks items.",
        "",
        "## Intended use",
        "",
        f"Ranking {manifest.counts.items:,} items for {manifest.counts.users:,} known users. Users without history are "
        + (
            "answered from their features, or by popularity."
            if manifest.views
            else "answered by popularity, and told so."
        ),
        "Not for decisions about people: a score is no probability and no measure of worth.",
        "",
        "## Data",
        "",
        f"- {manifest.counts.interactions:,} training interactions",
        *[f"- {name.replace('_', ' ')}: {value}" for name, value in data.items()],
        *[f"- licence: {' '.join(text.split())}" for text in licences or (_LICENCE,)],
        "",
        "## Model",
        "",
        *[f"- {name.replace('_', ' ')}: {value}" for name, value in manifest.parameters.items()],
        f"- feature views: {', '.join(view.name for view in manifest.views) or 'none'}",
        f"- inputs: {_fields(manifest.signature.inputs)}",
        f"- outputs: {_fields(manifest.signature.outputs)}",
        "",
        "## Quality",
        "",
        f"{protocol_line(protocol)}. Intervals: {protocol['interval']}.",
        "",
        "| metric | value | interval | popularity |",
        "|---|---:|---:|---:|",
    ]
    for name, entry in evaluation["metrics"].items():
        reference = evaluation["against"]["popularity"].get(name, {}).get("reference")
        interval = f"{entry['low']:.4f} to {entry['high']:.4f}" if entry.get("low") is not None else "-"
        lines.append(f"| {name} | {_number(entry['value'])} | {interval} | {_number(reference)} |")
    lines += ["", "### Slices", ""]
    names = [name for name in evaluation["metrics"] if name.startswith(("hr@", "ndcg@"))]
    lines += [f"| slice | users | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    for label, group in evaluation["slices"].items():
        values = " | ".join(_number(group["metrics"][name]["value"]) for name in names)
        lines.append(f"| {label.replace('|', chr(92) + '|')} | {group['users']:,} | {values} |")
    lines += ["", "### Gates", "", "| gate | value | passed |", "|---|---:|---|"]
    lines += [
        f"| {gate['gate']} | {_number(gate['value'])} | {'yes' if gate['passed'] else 'no'} |"
        for gate in gates["gates"]
    ]
    lines += ["", "## Limits", ""]
    lines += [f"- {warning}" for warning in evaluation.get("warnings", [])]
    lines += [
        "- Measured on logged interactions: items that were never shown could not be liked.",
        "- Items without training interactions are not recommended on their merits.",
        "- Popular items are recommended more than others: see popularity_percentile and coverage.",
        "",
        "## Lineage",
        "",
        f"- bundle: sha256 {sha256}",
        *[f"- {name.replace('_', ' ')}: {value}" for name, value in lineage.items() if value is not None],
    ]
    return "\n".join(lines) + "\n"


def _fields(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in fields.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4f}"
