"""What the page of Kubeflow Pipelines shows of an evaluation: the confusion matrix of the top k, and a page of tables.

A recommendation is read as a decision about each (user, item) pair that could have been recommended: recommended or
not, relevant or not. The counts are exact: hits are recall@k times the relevant items of each user.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow.compute as pc
import pyarrow.parquet as pq

from slipway.contracts.files import write_atomically, write_json

CATEGORIES = ("relevant", "other")
_STYLE = "body{font:14px sans-serif}table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left}"


class ShownArtifact(Protocol):
    """The part of a KFP artifact that is used here."""

    path: str
    metadata: dict[str, Any]


class ConfusionArtifact(ShownArtifact, Protocol):
    """A KFP ClassificationMetrics artifact."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None: ...


def publish(evaluation: Path, features: Path, confusion: ConfusionArtifact, page: ShownArtifact) -> None:
    """Writes what the page shows.

    Args:
        evaluation: The evaluation artifact.
        features: The features artifact with which it was made.
        confusion: Gets the matrix; rows are what is so, columns what was decided (relevant: among the first k).
        page: Gets a page without scripts.
    """
    matrix = confusion_matrix(evaluation, features)
    if matrix is not None:
        confusion.log_confusion_matrix(list(CATEGORIES), matrix)
    # A task whose output has no file is never found in the cache.
    write_json(Path(confusion.path), {"categories": CATEGORIES, "matrix": matrix})
    write_atomically(Path(page.path), render(evaluation))


def confusion_matrix(evaluation: Path, features: Path) -> list[list[int]] | None:
    """Returns [[hits, misses], [wrongly recommended, rightly left out]] at the first k of the evaluation.

    None where the pairs cannot be counted: with candidates of its own, or where items seen before are ranked again.
    """
    summary = json.loads((evaluation / "metrics.json").read_text())
    protocol = summary["protocol"]
    if protocol["candidates"] != "all" or protocol["seen_items"] != "excluded":
        return None
    k = protocol["k"][0]
    users = pq.read_table(evaluation / "per_user.parquet", columns=["user", "relevant_items", f"recall@{k}"])
    relevant = users["relevant_items"].to_pylist()
    hits = sum(
        round(share * count) for share, count in zip(users[f"recall@{k}"].to_pylist(), relevant, strict=True) if share
    )
    rankings = pq.read_table(evaluation / "rankings.parquet", columns=["rank"])
    recommended = pc.sum(pc.less_equal(rankings["rank"], k)).as_py() or 0
    history = pq.read_table(features / "train.parquet", columns=["user", "item"])
    seen = history.filter(pc.is_in(history["user"], value_set=users["user"].combine_chunks()))
    pairs = users.num_rows * protocol["items_ranked"] - seen.group_by(["user", "item"]).aggregate([]).num_rows
    misses = sum(relevant) - hits
    return [[hits, misses], [recommended - hits, pairs - recommended - misses]]


def render(evaluation: Path) -> str:
    """Returns the evaluation as a page: gates, metrics and slices."""
    summary = json.loads((evaluation / "metrics.json").read_text())
    gates = json.loads((evaluation / "gates.json").read_text())
    parts = [
        f"<h1>Evaluation: {'all gates passed' if gates['passed'] else 'gates were not met'}</h1>",
        "<h2>Gates</h2>",
        _table(
            ("gate", "value", "passed", "why"),
            ((gate["gate"], gate["value"], "yes" if gate["passed"] else "no", gate["why"]) for gate in gates["gates"]),
        ),
        "<h2>Metrics</h2>",
        _table(
            ("metric", "value", "from", "to", "definition"),
            (
                (name, entry["value"], entry.get("low"), entry.get("high"), entry.get("definition"))
                for name, entry in summary["metrics"].items()
            ),
        ),
    ]
    for warning in summary["warnings"]:
        parts.append(f"<p>Warning: {html.escape(warning)}</p>")
    body = "\n".join(parts)
    return f'<!doctype html><meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>\n{body}\n'


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_shown(value)}</td>" for value in row) + "</tr>" for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))
