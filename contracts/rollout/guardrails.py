"""Guardrails: what is compared between candidate and stable, and how much worse is tolerated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slipway.contracts.metrics import LATENCY_BUCKETS
from slipway.contracts.rollout.part import Part

Requirement = Literal["noHarm", "proven", "better"]
"""noHarm: enough samples and no evidence of harm. proven: the bound is inside the tolerated margin. better: the bound
is beyond `minimum_lift`, so that the candidate is an improvement and not only no loss."""

GuardrailKind = Literal["errors", "latency", "fallbacks", "empty", "clicks", "counters"]

ASSIGNMENT = "assignment"
"""Name under which readings report the requests that each arm got, and under which the split is judged."""


class Margin(Part):
    """How much worse than stable the candidate may be. With both given, being inside either is tolerated."""

    odds_ratio: float | None = Field(
        None, gt=0, description="Tolerated odds ratio: above 1 where lower is better, below 1 where higher is better."
    )
    absolute: float | None = Field(
        None, gt=0, lt=1, description="Tolerated worsening of the rate itself: 0.01 is one point of a hundred."
    )

    @model_validator(mode="after")
    def _one_is_given(self) -> Margin:
        if self.odds_ratio is None and self.absolute is None:
            raise ValueError("a margin needs odds_ratio, absolute, or both")
        return self


class HardLimit(Part):
    """A rate that is never tolerated, whatever stable does; a breach goes back at once."""

    rate: float = Field(
        gt=0, lt=1, description="Where lower is better, the rate of events must not exceed it; else not fall below it."
    )
    minimum_samples: int = Field(20, ge=1, description="No breach before this many samples.")


class CounterPair(Part):
    """Two counters of the user's own: events, and the total they are counted out of. Both carry model and version."""

    events: str
    total: str


_HIGHER_IS_BETTER = {"clicks"}


class Guardrail(Part):
    """One comparison of the candidate with stable: events out of n, in the same windows."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    kind: GuardrailKind
    objective: float | None = Field(
        None, description=f"Latency only: seconds; a slower request is an event. One of {LATENCY_BUCKETS}."
    )
    counters: CounterPair | None = Field(None, description="Kind `counters` only.")
    direction: Literal["lower", "higher"] | None = Field(
        None, description="Which direction is better; known for every kind but `counters`."
    )
    margin: Margin
    harm_from: float | None = Field(
        None, gt=0, description="Odds ratio from which on the candidate is taken back; the margin if not given."
    )
    hard_limit: HardLimit | None = None
    requires: Requirement | None = Field(None, description="Instead of what the step requires.")
    minimum_lift: float = Field(
        1.0,
        gt=0,
        description="For `better`: odds ratio that the candidate must be proven to reach; above 1 where "
        "higher is better, below 1 where lower is better.",
    )
    unit: Literal["request", "user"] = Field(
        "request",
        description="What is counted. Users are for `assignment: user`, where a user's requests hang together.",
    )
    dry_run: bool = Field(False, description="Judged and shown, but decides nothing.")
    feedback: bool | None = Field(
        None, description="Counted when the waiting time for feedback has passed; true for clicks."
    )

    @property
    def higher_is_better(self) -> bool:
        """True where an event is good, such as a click."""
        return (self.direction or ("higher" if self.kind in _HIGHER_IS_BETTER else "lower")) == "higher"

    @property
    def is_feedback(self) -> bool:
        """True where events come after the answer, by feedback."""
        return self.kind == "clicks" if self.feedback is None else self.feedback

    @model_validator(mode="after")
    def _fits_together(self) -> Guardrail:
        if (self.kind == "latency") != (self.objective is not None):
            raise ValueError(f"guardrail {self.name!r}: `objective` belongs to kind latency, and that kind needs it")
        if self.objective is not None and self.objective not in LATENCY_BUCKETS:
            raise ValueError(
                f"guardrail {self.name!r}: the objective {self.objective} is not a bucket of the latency histogram; "
                f"take one of {', '.join(map(str, LATENCY_BUCKETS))}"
            )
        if (self.kind == "counters") != (self.counters is not None):
            raise ValueError(f"guardrail {self.name!r}: `counters` belongs to kind counters, and that kind needs it")
        if self.kind == "counters" and self.direction is None:
            raise ValueError(f"guardrail {self.name!r}: say whether `direction` lower or higher is better")
        if self.kind != "counters" and self.direction not in (None, "higher" if self._is_good_kind() else "lower"):
            raise ValueError(f"guardrail {self.name!r}: the direction of kind {self.kind} is not {self.direction}")
        for field, ratio in (("margin.odds_ratio", self.margin.odds_ratio), ("harm_from", self.harm_from)):
            if ratio is not None and (ratio > 1 if self.higher_is_better else ratio < 1):
                side = "at most 1: higher is better" if self.higher_is_better else "at least 1: lower is better"
                raise ValueError(f"guardrail {self.name!r}: {field} is {ratio}; here it must be {side}")
        if self.minimum_lift < 1 if self.higher_is_better else self.minimum_lift > 1:
            side = "at least 1: higher is better" if self.higher_is_better else "at most 1: lower is better"
            raise ValueError(f"guardrail {self.name!r}: minimum_lift is {self.minimum_lift}; here it must be {side}")
        if self.requires == "better" and self.margin.odds_ratio is None:
            raise ValueError(f"guardrail {self.name!r}: `better` compares odds ratios; give margin.odds_ratio")
        if self.unit == "user" and self.kind != "clicks":
            raise ValueError(f"guardrail {self.name!r}: users are counted for clicks only")
        if self.harm_from is not None and self.margin.odds_ratio is None:
            raise ValueError(f"guardrail {self.name!r}: harm_from needs margin.odds_ratio beside it")
        if self.margin.odds_ratio == 1 and self.margin.absolute is None:
            raise ValueError(
                f"guardrail {self.name!r}: a margin of exactly 1 can never be proven for an equally good candidate; "
                f"tolerate a little, such as {0.95 if self.higher_is_better else 1.05}"
            )
        return self

    def _is_good_kind(self) -> bool:
        return self.kind in _HIGHER_IS_BETTER
