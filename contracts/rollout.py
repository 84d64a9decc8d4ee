"""The policy of a rollout: what `rollout:` in a project file, and the spec of a Rollout, may say."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slipway.contracts.durations import Seconds
from slipway.contracts.metrics import LATENCY_BUCKETS

Requirement = Literal["noHarm", "proven"]
"""noHarm: enough samples and no evidence of harm. proven: the bound is inside the tolerated margin."""

GuardrailKind = Literal["errors", "latency", "fallbacks", "empty", "clicks", "counters"]

CommandKind = Literal["pause", "resume", "approve", "abort", "retry", "promote", "skip"]
"""What a person may tell a running rollout; `approve` opens the gate that it waits at, as `resume` does."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Margin(_Part):
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


class HardLimit(_Part):
    """A rate that is never tolerated, whatever stable does; a breach goes back at once."""

    rate: float = Field(
        gt=0, lt=1, description="Where lower is better, the rate of events must not exceed it; else not fall below it."
    )
    minimum_samples: int = Field(20, ge=1, description="No breach before this many samples.")


class CounterPair(_Part):
    """Two counters of the user's own: events, and the total they are counted out of. Both carry model and version."""

    events: str
    total: str


_HIGHER_IS_BETTER = {"clicks"}


class Guardrail(_Part):
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


class Step(_Part):
    """One share of traffic for the candidate, and what must hold before the next share."""

    weight: int = Field(ge=0, le=100, description="Percent of traffic to the candidate.")
    minimum_dwell: Seconds = Field(60.0, description="Shortest time at this weight.")
    deadline: Seconds | None = Field(None, description="Longest time before `inconclusive` applies.")
    requires: Requirement | None = Field(
        None, description="Default: proven on the last step below 100, noHarm on every other."
    )
    minimum_samples: int = Field(100, ge=0, description="Requests of the candidate, at this step, per guardrail.")
    gate: bool = Field(False, description="Wait for a person's approval before the next step.")


class NoData(_Part):
    """What to do when no usable reading comes."""

    hold_for: Seconds = Field(300.0, description="Hold this long without data.")
    then: Literal["rollback", "hold"] = "rollback"


def _default_steps() -> tuple[Step, ...]:
    return tuple(Step.model_validate({"weight": weight}) for weight in (5, 25, 50, 100))


def _default_guardrails() -> tuple[Guardrail, ...]:
    documents: list[dict[str, Any]] = [
        {
            "name": "errors",
            "kind": "errors",
            "margin": {"odds_ratio": 1.5, "absolute": 0.01},
            "hard_limit": {"rate": 0.2},
        },
        {"name": "latency", "kind": "latency", "objective": 0.1, "margin": {"odds_ratio": 1.5, "absolute": 0.02}},
        {"name": "fallbacks", "kind": "fallbacks", "margin": {"odds_ratio": 1.5, "absolute": 0.02}},
        {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}},
    ]
    return tuple(Guardrail.model_validate(document) for document in documents)


class RolloutPolicy(_Part):
    """How a new version gets traffic, and what takes it back.

    `alpha` bounds the chance that a candidate inside every margin is taken back, over the whole rollout and however
    often it is looked at; and, separately, the chance that one worse than a margin is called proven.
    """

    strategy: Literal["canary"] = "canary"
    steps: tuple[Step, ...] = Field(default_factory=_default_steps, min_length=1)
    guardrails: tuple[Guardrail, ...] = Field(default_factory=_default_guardrails)
    alpha: float = Field(0.05, gt=0, lt=0.5)
    deadline: Seconds = Field(86400.0, description="Longest time for the whole rollout; then it goes back.")
    no_data: NoData = Field(default_factory=lambda: NoData.model_validate({}))
    inconclusive: Literal["hold", "rollback", "proceed"] = Field(
        "hold", description="At a step's deadline; proceed still needs the minimum of samples and fresh data."
    )
    on_new_version: Literal["replace", "queue", "refuse"] = "replace"
    both_bad: Literal["hold"] = Field("hold", description="Candidate and stable both bad: hold the weights and alarm.")
    known_good: str | None = Field(None, description="Version that takes all traffic when both are bad.")
    readiness_timeout: Seconds = Field(120.0, description="Longest time for the candidate to become ready.")
    maximum_restarts: int = Field(3, ge=0, description="More restarts of the candidate than this are a hard fault.")
    ratio_tolerance: float = Field(
        0.1, ge=0, lt=1, description="Tolerated relative error of the odds of assignment against the set weights."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RolloutPolicy:
        weights = [step.weight for step in self.steps]
        if any(later <= earlier for earlier, later in itertools.pairwise(weights)):
            raise ValueError(f"the weights of the steps must rise; they are {weights}")
        if weights[-1] != 100:
            raise ValueError(f"the last step must have weight 100; it has {weights[-1]}")
        if any(step.requires == "proven" and step.weight in (0, 100) for step in self.steps):
            raise ValueError("at weights 0 and 100 only one arm has traffic; put `proven` on a step between")
        if self.steps[0].weight == 0 and self.steps[0].minimum_samples > 0:
            raise ValueError("a step of weight 0 gets no requests; give it minimum_samples: 0")
        if all(guardrail.dry_run for guardrail in self.guardrails):
            raise ValueError("a rollout needs at least one guardrail that decides: one without dry_run")
        names = [guardrail.name for guardrail in self.guardrails]
        if len(set(names)) != len(names):
            raise ValueError(f"the names of the guardrails must differ; they are {names}")
        if ASSIGNMENT in names:
            raise ValueError(f"{ASSIGNMENT!r} is the name of the built-in check of the traffic split; choose another")
        return self

    def requirement(self, step: int, guardrail: Guardrail) -> Requirement:
        """Returns what `guardrail` must fulfil before the step after `step`."""
        chosen = self.steps[step]
        if chosen.weight in (0, 100):
            return "noHarm"
        below = [index for index, other in enumerate(self.steps) if other.weight < 100]
        return guardrail.requires or chosen.requires or ("proven" if step == below[-1] else "noHarm")


ASSIGNMENT = "assignment"
"""Name under which readings report the requests that each arm got, and under which the split is judged."""


class ArmTarget(_Part):
    """One version that an arm serves. `arm` is its name everywhere: `<model>-v<version>`."""

    arm: str
    version: str
    digest: str = Field("", description="sha256 of the bundle; a version that went back is known by it.")
    bundle: str = Field("", description="Path or URI of the bundle.")


class RolloutSpec(_Part):
    """A rollout as it is handed to a controller: which version, over which, by which policy."""

    id: str
    model: str
    candidates: tuple[ArmTarget, ...] = Field(min_length=1)
    stable: ArmTarget | None = Field(None, description="None for the first version of a model.")
    known_good: ArmTarget | None = None
    policy: RolloutPolicy = Field(default_factory=lambda: RolloutPolicy.model_validate({}))
