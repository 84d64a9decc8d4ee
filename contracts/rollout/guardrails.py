"""Guardrails: what is compared between candidate and stable, and how much worse is tolerated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slipway.contracts.metrics import LATENCY_BUCKETS, RANKING_DEPTHS
from slipway.contracts.rollout.part import Part

Requirement = Literal["noHarm", "proven", "better"]
"""noHarm: enough samples and no evidence of harm. proven: the bound is inside the tolerated margin. better: the bound
is beyond `minimum_lift`, so that the candidate is an improvement and not only no loss."""

GuardrailKind = Literal[
    "errors", "latency", "fallbacks", "empty", "clicks", "counters", "mean", "ndcg", "auc", "scores",
    "agreement", "rank_correlation", "score_difference",
]  # fmt: skip
"""Most kinds count events out of n. `mean` compares the mean of a bounded value of feedback, such as seconds watched;
`ndcg` and `auc` that of how well answers ranked the items that got feedback; `scores` compares the histograms of the
best score in an answer. `agreement`, `rank_correlation` and `score_difference` hold the answers to copies against a
limit of their own: how like the answers of users they are."""

ASSIGNMENT = "assignment"
"""Name under which readings report the requests that each arm got, and under which the split is judged."""


class Margin(Part):
    """How much worse than stable the candidate may be. With both given, being inside either is tolerated.

    Without either, nothing is compared with stable: for guardrails with `at_least` or `at_most`.
    """

    odds_ratio: float | None = Field(
        None, gt=0, description="Tolerated odds ratio: above 1 where lower is better, below 1 where higher is better."
    )
    absolute: float | None = Field(
        None,
        gt=0,
        description="Tolerated worsening itself: of a rate, below 1 (0.01 is one point of a hundred); of a mean, in "
        "the unit of its values; for `scores`, the tolerated population stability index (0.1 is a small shift, "
        "0.25 a large one).",
    )


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


_HIGHER_IS_BETTER = {"clicks", "ndcg", "auc", "agreement", "rank_correlation"}
_SIMILARITIES = {"agreement", "rank_correlation", "score_difference"}
_MEANS = {"mean", "ndcg", "auc"}
_RANKINGS = {"ndcg", "auc"}


class Guardrail(Part):
    """One comparison of the candidate with stable: events out of n, in the same windows."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    kind: GuardrailKind
    objective: float | None = Field(
        None, description=f"Latency only: seconds; a slower request is an event. One of {LATENCY_BUCKETS}."
    )
    objectives: tuple[float, ...] | None = Field(
        None, min_length=2, description="Latency only, instead of `objective`: several, judged as one guardrail."
    )
    value: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9_.-]*$",
        max_length=64,
        description="Kind `mean`: the type of feedback whose `value` is summed for each request or user; one without "
        "such feedback counts as 0. Kinds `ndcg` and `auc`: the type whose `value` is an item's gain, instead of a "
        "click.",
    )
    maximum: float | None = Field(
        None, gt=0, description="With `value`: values lie between 0 and this; larger ones count as this."
    )
    at: int | None = Field(
        None,
        description="Kinds `ndcg` and `agreement`: how many items of an answer count, one of "
        f"{RANKING_DEPTHS}; agreement without it is that of whole answers.",
    )
    at_least: float | None = Field(
        None,
        description="Kinds `agreement` (0 to 1, share of the items in common) and `rank_correlation` (-1 to 1, "
        "Kendall's tau of these): the mean over pairs of answers must not be proven below it, and is proven above it.",
    )
    at_most: float | None = Field(
        None,
        description="Kind `score_difference` (0 to 1, |a - b| / (|a| + |b|) of the scores of items in common): the "
        "mean must not be proven above it, and is proven below it.",
    )
    counters: CounterPair | None = Field(None, description="Kind `counters` only.")
    direction: Literal["lower", "higher"] | None = Field(
        None, description="Which direction is better; known for every kind but `counters` and `mean`."
    )
    margin: Margin = Field(
        default_factory=lambda: Margin.model_validate({}), description="Not with `at_least` or `at_most`."
    )
    harm_from: float | None = Field(
        None, gt=0, description="Odds ratio from which on the candidate is taken back; the margin if not given."
    )
    hard_limit: HardLimit | None = None
    requires: Requirement | None = Field(None, description="Instead of what the step requires.")
    minimum_lift: float = Field(
        1.0,
        gt=0,
        description="For `better`: odds ratio that the candidate must be proven to exceed; at least 1 where "
        "higher is better, at most 1 where lower is better.",
    )
    minimum_gain: float = Field(
        0.0, ge=0, description="For `better` of a mean: improvement, in the unit of its values, to be exceeded."
    )
    unit: Literal["request", "user"] = Field(
        "request",
        description="What is counted. Users are for `assignment: user`, where a user's requests hang together.",
    )
    dry_run: bool = Field(False, description="Judged and shown, but decides nothing.")
    feedback: bool | None = Field(
        None, description="Counted when the waiting time for feedback has passed; true for clicks and means."
    )

    @property
    def higher_is_better(self) -> bool:
        """True where an event is good, such as a click."""
        return (self.direction or ("higher" if self.kind in _HIGHER_IS_BETTER else "lower")) == "higher"

    @property
    def is_feedback(self) -> bool:
        """True where events come after the answer, by feedback."""
        return self.kind in ("clicks", *_MEANS) if self.feedback is None else self.feedback

    @property
    def is_mean(self) -> bool:
        """True where means of bounded values are compared, and not rates of events."""
        return self.kind in _MEANS

    @property
    def is_similarity(self) -> bool:
        """True where answers to copies are held against a limit, and not against stable."""
        return self.kind in _SIMILARITIES

    @property
    def limit(self) -> float | None:
        """What the mean of a similarity is held against, on the scale of 0 to 1 on which it is counted."""
        if self.kind == "rank_correlation" and self.at_least is not None:
            return (self.at_least + 1) / 2
        return self.at_most if self.at_least is None else self.at_least

    @property
    def scale(self) -> float:
        """What a value of 1 on the scale of 0 to 1, on which means are compared, is in the unit of the values."""
        return self.maximum if self.kind == "mean" and self.maximum is not None else 1.0

    @property
    def measure(self) -> str:
        """How metrics call what a ranking is judged by: `ndcg@10`, `auc`."""
        return self.kind if self.at is None else f"{self.kind}@{self.at}"

    @property
    def can_improve(self) -> bool:
        """True where a candidate can be proven better, and not only no worse."""
        return self.is_mean or self.margin.odds_ratio is not None

    def parts(self) -> tuple[Guardrail, ...]:
        """Returns what is counted for this guardrail: itself, or one part for each of several latency objectives.

        A part is named `<guardrail>@<seconds>`, in readings and evidence alike.
        """
        if self.objectives is None:
            return (self,)
        return tuple(
            self.model_copy(update={"name": f"{self.name}@{bound:g}", "objective": bound, "objectives": None})
            for bound in self.objectives
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Guardrail:
        problem = next(
            (
                found
                for found in (
                    self._wrong_fields(),
                    self._wrong_objective(),
                    self._wrong_direction(),
                    self._wrong_margin(),
                    self._wrong_improvement(),
                )
                if found is not None
            ),
            None,
        )
        if problem is not None:
            raise ValueError(f"guardrail {self.name!r}: {problem}")
        return self

    def _wrong_fields(self) -> str | None:
        if (self.kind == "latency") != (self.objective is not None or self.objectives is not None):
            return "`objective` (or `objectives`) belongs to kind latency, and that kind needs it"
        if self.objective is not None and self.objectives is not None:
            return "give `objective` or `objectives`, not both"
        if (self.kind == "counters") != (self.counters is not None):
            return "`counters` belongs to kind counters, and that kind needs it"
        fits = self.kind in ("ndcg", "agreement") if self.at is not None else self.kind != "ndcg"
        if not fits or self.at not in (None, *RANKING_DEPTHS):
            depths = ", ".join(map(str, RANKING_DEPTHS))
            return f"`at` belongs to kinds ndcg (which needs it) and agreement, and is one of {depths}"
        problem = self._wrong_limit()
        if problem is not None:
            return problem
        given = {self.value is not None, self.maximum is not None}
        if given != {self.kind == "mean"} and (self.kind not in _RANKINGS or len(given) > 1):
            return "`value` and `maximum` belong together, and to kinds mean (which needs them), ndcg and auc"
        if (self.is_mean or self.is_similarity or self.kind == "scores") and self.hard_limit is not None:
            return f"kind {self.kind} has no rate of events that a hard_limit could bound"
        if self.unit == "user" and self.kind != "clicks" and not self.is_mean:
            return "users are counted for clicks and means only"
        return None

    def _wrong_limit(self) -> str | None:
        least, most = self.kind in ("agreement", "rank_correlation"), self.kind == "score_difference"
        if least != (self.at_least is not None) or most != (self.at_most is not None):
            return (
                "`at_least` belongs to kinds agreement and rank_correlation, `at_most` to kind score_difference; "
                "each of them needs it"
            )
        if self.limit is not None and not 0 < self.limit < 1:
            return "the limit must lie within what is possible: 0 to 1, or -1 to 1 for a rank_correlation"
        return None

    def _wrong_objective(self) -> str | None:
        chosen = self.objectives or (() if self.objective is None else (self.objective,))
        for bound in chosen:
            if bound not in LATENCY_BUCKETS:
                return (
                    f"the objective {bound} is not a bucket of the latency histogram; "
                    f"take one of {', '.join(map(str, LATENCY_BUCKETS))}"
                )
        return "the objectives must differ" if len(set(chosen)) < len(chosen) else None

    def _wrong_direction(self) -> str | None:
        if self.kind in ("counters", "mean"):
            return "say whether `direction` lower or higher is better" if self.direction is None else None
        if self.direction not in (None, "higher" if self.kind in _HIGHER_IS_BETTER else "lower"):
            return f"the direction of kind {self.kind} is not {self.direction}"
        return None

    def _wrong_margin(self) -> str | None:
        ratio, absolute = self.margin.odds_ratio, self.margin.absolute
        if self.is_similarity != (ratio is None and absolute is None):
            return (
                f"kind {self.kind} is held against a limit, and has no margin"
                if self.is_similarity
                else "a margin needs odds_ratio, absolute, or both"
            )
        if (self.is_mean or self.kind == "scores") and (ratio is not None or absolute is None):
            return f"kind {self.kind} has no odds ratio; give margin.absolute alone"
        largest = None if self.kind == "scores" else self.scale
        if absolute is not None and largest is not None and absolute >= largest:
            return f"margin.absolute is {absolute:g}; it must be below {largest:g}, or every candidate is inside it"
        for field, value in (("margin.odds_ratio", ratio), ("harm_from", self.harm_from)):
            if value is not None and (value > 1 if self.higher_is_better else value < 1):
                side = "at most 1: higher is better" if self.higher_is_better else "at least 1: lower is better"
                return f"{field} is {value}; here it must be {side}"
        if self.harm_from is not None and ratio is None:
            return "harm_from needs margin.odds_ratio beside it"
        if ratio == 1 and absolute is None:
            return (
                "a margin of exactly 1 can never be proven for an equally good candidate; "
                f"tolerate a little, such as {0.95 if self.higher_is_better else 1.05}"
            )
        return None

    def _wrong_improvement(self) -> str | None:
        if self.minimum_lift < 1 if self.higher_is_better else self.minimum_lift > 1:
            side = "at least 1: higher is better" if self.higher_is_better else "at most 1: lower is better"
            return f"minimum_lift is {self.minimum_lift}; here it must be {side}"
        if self.is_mean and self.minimum_lift != 1:
            return "a mean has no odds ratio; give minimum_gain instead of minimum_lift"
        if self.minimum_gain > 0 and (not self.is_mean or self.minimum_gain >= self.scale):
            return "minimum_gain belongs to means (mean, ndcg, auc) and lies below their maximum"
        if self.requires == "better" and (self.kind == "scores" or self.is_similarity):
            return f"{self.kind} is not better or worse, only different"
        if self.requires == "better" and not self.is_mean and self.margin.odds_ratio is None:
            return "`better` compares odds ratios; give margin.odds_ratio"
        return None
