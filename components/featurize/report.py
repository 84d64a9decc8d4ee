"""The artifact in words: what was held out, and which features there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slipway.contracts.split import SplitSpec
from slipway.feature_store.views import FeatureView

_MEANING = {
    "train": "events to train on",
    "test": "events held out",
    "users": "users in train",
    "items": "items in train",
    "evaluable_users": "users with a history and new items held out",
    "test_repeated": "held-out events of an item that the user has in train already",
    "test_unknown_item": "held-out events of an item that nobody has in train",
    "test_unknown_user": "held-out events of a user without history",
}


def report(spec: SplitSpec, counts: Mapping[str, int], views: Sequence[FeatureView], warnings: Sequence[str]) -> str:
    """Returns the report as Markdown."""
    lines = ["# Split and features", "", f"Split: {spec.method}", "", "| | |", "|---|---:|"]
    lines += [f"| {meaning} | {counts[name]:,} |" for name, meaning in _MEANING.items()]
    lines += ["", *(f"**Note:** {warning}." for warning in warnings)]
    for view in views:
        where = "label time only" if view.entity == "interaction" else f"by {view.entity}"
        lines += ["", f"## {view.name} ({where})", "", "| feature | type | default | |", "|---|---|---|---|"]
        lines += [f"| {part.name} | {part.dtype} | {part.default} | {part.description} |" for part in view.features]
    return "\n".join(lines) + "\n"
