"""The policy of a rollout: what `rollout:` in a project file, and the spec of a Rollout, may say."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from slipway.contracts.durations import Seconds
from slipway.contracts.rollout.freeze import FreezeWindow
from slipway.contracts.rollout.guardrails import ASSIGNMENT, Guardrail, Margin, Requirement
from slipway.contracts.rollout.part import Part
from slipway.contracts.rollout.presets import PRESETS, PresetName


class Step(Part):
    """One share of traffic for the candidate, and what must hold before the next share."""

    weight: int = Field(
        ge=0, le=100, description="Percent of traffic to the candidate; to each, where there are several."
    )
    mirror: int = Field(
        0,
        ge=0,
        le=100,
        description="At weight 0: percent of requests of which the candidate gets a copy; no user sees it.",
    )
    minimum_dwell: Seconds = Field(60.0, description="Shortest time at this weight.")
    deadline: Seconds | None = Field(None, description="Longest time before `inconclusive` applies.")
    requires: Requirement | None = Field(
        None, description="Default: proven on the last step below 100, noHarm on every other."
    )
    minimum_samples: int = Field(100, ge=0, description="Requests of the candidate, at this step, per guardrail.")
    gate: bool = Field(False, description="Wait for a person's approval before the next step.")
    margins: dict[str, Margin] = Field({}, description="Other margins at this step, by the name of the guardrail.")

    @property
    def compares(self) -> bool:
        """True where candidate and stable answer requests at the same time."""
        return 0 < self.weight < 100 or self.mirror > 0


class NoData(Part):
    """What to do when no usable reading comes."""

    hold_for: Seconds = Field(300.0, description="Hold this long without data.")
    then: Literal["rollback", "hold"] = "rollback"


class Watch(Part):
    """The time after promotion in which stable still runs, so that going back takes no start."""

    duration: Seconds = Field(0.0, description="How long; 0 is none.")
    control: int = Field(0, ge=0, le=50, description="Percent of traffic that stays with stable to compare with.")


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


class RolloutPolicy(Part):
    """How a new version gets traffic, and what takes it back.

    `alpha` bounds the chance that a candidate inside every margin is taken back, over the whole rollout and however
    often it is looked at; and, separately, the chance that one worse than a margin is called proven.
    """

    preset: PresetName | None = Field(None, description="Named defaults for every field that is not given.")
    strategy: Literal["canary", "blueGreen", "abTest", "shadow"] = "canary"
    steps: tuple[Step, ...] = Field(default_factory=_default_steps, min_length=1)
    guardrails: tuple[Guardrail, ...] = Field(default_factory=_default_guardrails)
    assignment: Literal["request", "user"] = Field(
        "request", description="Who stays with a version: each request is drawn anew, or a user always gets the same."
    )
    horizon: Literal["sequential", "fixed"] = Field(
        "sequential", description="Whether proof ends a step as soon as it is there, or at the step's deadline only."
    )
    early_promotion: bool = Field(
        False, description="Go straight to the last step once every guardrail is proven, at whatever step."
    )
    watch: Watch = Field(default_factory=lambda: Watch.model_validate({}))
    freeze: tuple[FreezeWindow, ...] = Field((), description="Times in which no version gets more traffic.")
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

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, content: Any) -> Any:
        """Fills what is not given from the preset; a field that is given replaces the preset's whole field."""
        if not isinstance(content, dict) or content.get("preset") not in PRESETS:
            return content
        return {**PRESETS[content["preset"]], **content}

    @model_validator(mode="after")
    def _fits_together(self) -> RolloutPolicy:
        weights = [step.weight for step in self.steps]
        if any(later <= earlier for earlier, later in itertools.pairwise(weights) if later or earlier):
            raise ValueError(f"the weights of the steps must rise; they are {weights}")
        if self.strategy == "shadow" and (weights[-1] > 0 or not self.steps[-1].mirror):
            raise ValueError("a shadow gets copies of requests only: give its steps weight 0 and a mirror")
        if self.strategy != "shadow" and weights[-1] != 100:
            raise ValueError(f"the last step must have weight 100; it has {weights[-1]}")
        for step in self.steps:
            if step.mirror and step.weight:
                raise ValueError(f"a step has weight {step.weight} and a mirror; copies are for weight 0")
            if step.requires in ("proven", "better") and not step.compares:
                raise ValueError(
                    f"at weights 0 and 100 only one arm has traffic; put `{step.requires}` on a step between"
                )
            if step.weight == 0 and not step.mirror and step.minimum_samples > 0:
                raise ValueError("a step of weight 0 gets no requests; give it minimum_samples: 0")
        if self.strategy == "abTest" and not any(step.compares for step in self.steps):
            raise ValueError("an A/B test needs a step at which both versions have traffic")
        self._guardrails_fit_together()
        return self

    def _guardrails_fit_together(self) -> None:
        if all(guardrail.dry_run for guardrail in self.guardrails):
            raise ValueError("a rollout needs at least one guardrail that decides: one without dry_run")
        names = [guardrail.name for guardrail in self.guardrails]
        if len(set(names)) != len(names):
            raise ValueError(f"the names of the guardrails must differ; they are {names}")
        if ASSIGNMENT in names:
            raise ValueError(f"{ASSIGNMENT!r} is the name of the built-in check of the traffic split; choose another")
        for guardrail in self.guardrails:
            if guardrail.is_similarity and not any(step.mirror for step in self.steps):
                raise ValueError(f"guardrail {guardrail.name!r} looks at answers to copies: give a step a mirror")
        maxima = {guardrail.value: guardrail.maximum for guardrail in self.guardrails}
        for guardrail in self.guardrails:
            if maxima[guardrail.value] != guardrail.maximum:
                raise ValueError(f"values of {guardrail.value!r} are cut at one maximum; give it the same everywhere")
        for index, step in enumerate(self.steps):
            unknown = sorted(set(step.margins) - set(names))
            if unknown:
                raise ValueError(f"step {index + 1} has a margin for {unknown[0]!r}, and there is no such guardrail")
            for guardrail in self.guardrails:
                self.at_step(index, guardrail)

    def frozen(self, now: float) -> str | None:
        """Returns which freeze holds at `now` (Unix seconds) and until when, in words, or None."""
        for window in self.freeze:
            until = window.until(now)
            if until is not None:
                moment = datetime.fromtimestamp(until, ZoneInfo(window.timezone)).strftime("%Y-%m-%d %H:%M %Z")
                return f"frozen until {moment}{f' ({window.name})' if window.name else ''}"
        return None

    def requirement(self, step: int, guardrail: Guardrail) -> Requirement:
        """Returns what `guardrail` must fulfil before the step after `step`."""
        chosen = self.steps[step]
        if not chosen.compares:
            return "noHarm"
        last = max(index for index, other in enumerate(self.steps) if other.compares)
        wanted = guardrail.requires or chosen.requires or ("proven" if step == last else "noHarm")
        return "proven" if wanted == "better" and not self.at_step(step, guardrail).can_improve else wanted

    def applies(self, step: int, guardrail: Guardrail) -> bool:
        """Returns whether a step asks for a guardrail: nobody answers to a copy, so nothing waits for feedback there;
        and only answers to copies are held beside those of users."""
        return not guardrail.is_feedback if self.steps[step].mirror else not guardrail.is_similarity

    def at_step(self, step: int, guardrail: Guardrail) -> Guardrail:
        """Returns the guardrail with the margin that it has at a step.

        Raises:
            ValueError: That margin does not fit the guardrail.
        """
        margin = self.steps[step].margins.get(guardrail.name)
        if margin is None:
            return guardrail
        return Guardrail.model_validate({**guardrail.model_dump(), "margin": margin.model_dump()})
