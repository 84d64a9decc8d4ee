"""How a model is judged: what is measured, over whom, and what it must reach before it may be registered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

RANKING_METRICS = ("hr", "ndcg", "recall", "mrr")
"""Metrics of one user's list, cut at k; their mean over users is reported."""

LIST_METRICS = ("coverage", "popularity_percentile")
"""Metrics of all users' lists together, cut at k."""

WHOLE_METRICS = ("auc", "mrr")
"""Metrics of a user's whole ranking; they have no k."""

Reference = Literal["popularity", "champion"]

_METRIC_NAME = re.compile(r"(?P<name>[a-z_]+)(?:@(?P<k>[1-9][0-9]{0,3}))?")


class MetricName(BaseModel):
    """A metric's name taken apart: `ndcg@10` is (ndcg, 10), `auc` is (auc, None)."""

    model_config = ConfigDict(frozen=True)

    name: str
    k: int | None = None

    @classmethod
    def parse(cls, text: str) -> MetricName:
        """Reads a metric's name.

        Raises:
            ValueError: The name is not one of ours, or k is missing or superfluous.
        """
        match = _METRIC_NAME.fullmatch(text)
        name = match["name"] if match else ""
        k = int(match["k"]) if match and match["k"] else None
        if (k is None and name in WHOLE_METRICS) or (k is not None and name in (*RANKING_METRICS, *LIST_METRICS)):
            return cls(name=name, k=k)
        known = ", ".join([*WHOLE_METRICS, *(f"{name}@k" for name in (*RANKING_METRICS, *LIST_METRICS))])
        raise ValueError(f"unknown metric {text!r}; known are {known}")

    @property
    def per_user(self) -> bool:
        """Whether every user has a value, so that means, intervals, slices and paired comparisons exist."""
        return self.name not in LIST_METRICS


class EvaluationSpec(BaseModel):
    """What `evaluate` measures.

    `candidates` is "all" (every item of the catalogue is ranked) or a table of (user, item) pairs, to which each
    user's held-out items are added. `minimum_rating` makes held-out interactions with a lower rating irrelevant.
    `slices` are `user_activity` (terciles of a user's training events), `item_popularity` (of the held-out items),
    or a column of the users or items table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: tuple[int, ...] = Field(default=(10,), min_length=1)
    candidates: str = "all"
    exclude_seen: bool = True
    minimum_rating: float | None = None
    bootstrap_samples: int = Field(default=1000, ge=100, le=100_000)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    slices: tuple[str, ...] = ("user_activity", "item_popularity")
    maximum_slice_values: int = Field(default=20, ge=2, le=1000)
    seed: int = Field(default=0, ge=0)

    @field_validator("k")
    @classmethod
    def _sorted_k(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 or k > 9999 for k in value):
            raise ValueError("every k must be between 1 and 9999")
        return tuple(sorted(set(value)))


class GateSpec(BaseModel):
    """One condition on a metric, of the whole or of one slice.

    `minimum` and `maximum` bound the metric's value. With `against`, the lower bound of the relative change to the
    reference (paired bootstrap over users) must be at least `minimum_change`; a missing champion satisfies it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    minimum: float | None = Field(default=None, allow_inf_nan=False)
    maximum: float | None = Field(default=None, allow_inf_nan=False)
    against: Reference | None = None
    minimum_change: float | None = Field(default=None, allow_inf_nan=False)
    slice: str | None = Field(default=None, pattern=r"^[^=\s]+=.+$")

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        MetricName.parse(value)
        return value

    @model_validator(mode="after")
    def _something_to_check(self) -> GateSpec:
        if (self.against is None) != (self.minimum_change is None):
            raise ValueError("`against` and `minimum_change` belong together: give both or neither")
        if self.minimum is None and self.maximum is None and self.against is None:
            raise ValueError("give a `minimum`, a `maximum`, or `against` with `minimum_change`")
        if not MetricName.parse(self.metric).per_user and (self.against is not None or self.slice is not None):
            raise ValueError(f"{self.metric} belongs to all users' lists together: it has no slice and no `against`")
        return self

    @property
    def label(self) -> str:
        """The gate in one line: `ndcg@10 [user_activity=low]`."""
        return self.metric if self.slice is None else f"{self.metric} [{self.slice}]"


class GateResult(BaseModel):
    """One bound of a gate, checked. `value` is None when the metric is missing or not finite: then it failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: str
    metric: str
    slice: str | None = None
    against: Reference | None = None
    value: float | None
    bound: float
    relation: Literal[">=", "<="]
    passed: bool
    why: str


def gate_problems(evaluation: EvaluationSpec, gates: Sequence[GateSpec]) -> list[tuple[int, str]]:
    """Returns (index, problem) for each gate that `evaluation` will never measure."""
    problems = []
    for index, gate in enumerate(gates):
        k = MetricName.parse(gate.metric).k
        if k is not None and k not in evaluation.k:
            problems.append((index, f"{gate.metric} is not measured: add {k} to evaluation.k"))
        if gate.slice is not None and gate.slice.partition("=")[0] not in evaluation.slices:
            problems.append(
                (index, f"slice {gate.slice} is not measured: add {gate.slice.partition('=')[0]} to evaluation.slices")
            )
    return problems


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Returns the protocol in one line, to stand beside a number."""
    if protocol["ranking"] == "full-rank":
        ranking = f"full-rank over {protocol['items_ranked']:,} items"
    else:
        ranking = f"candidates from {protocol['candidates']}, {protocol['items_ranked']:.1f} a user"
    return (
        f"{ranking}; seen items {protocol['seen_items']}; held out: {protocol['held_out']}; "
        f"relevant: {protocol['relevant']}; {protocol['users']:,} users"
    )
