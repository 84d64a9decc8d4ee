"""What `decide` remembers and what it asks for: frozen dataclasses of plain values.

All of them go through `to_json` and `from_json` of `serialization` unchanged, so that a controller can be killed
between any two calls and go on from what it wrote last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from slipway.contracts.rollout import Requirement
from slipway.serving.rollout.core.observations import Target


class Phase(StrEnum):
    """Where a rollout stands."""

    PENDING = "Pending"
    STARTING = "Starting"
    SMOKE_TEST = "SmokeTest"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    AWAITING_GATE = "AwaitingGate"
    PROMOTING = "Promoting"
    WATCHING = "Watching"
    COMPLETING = "Completing"
    ROLLING_BACK = "RollingBack"
    HOLDING = "Holding"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    COMPLETED = "Completed"
    FAILED = "Failed"


TERMINAL = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK, Phase.COMPLETED, Phase.FAILED})
BEFORE_TRAFFIC = frozenset({Phase.PENDING, Phase.STARTING, Phase.SMOKE_TEST})
MEASURING = frozenset({Phase.PROGRESSING, Phase.PAUSED, Phase.AWAITING_GATE, Phase.PROMOTING, Phase.WATCHING})


class Outcome(StrEnum):
    """What a guardrail says. INCONCLUSIVE is never read as PASS."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a secret
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


# ------------------------------------------------------------------------------------------- what is remembered


@dataclass(frozen=True)
class Counts:
    """Bad events out of n, for candidate and stable. Where higher is better, a bad event is a missing good one."""

    candidate_bad: int = 0
    candidate_n: int = 0
    stable_bad: int = 0
    stable_n: int = 0

    def plus(self, other: Counts) -> Counts:
        """Returns the sums."""
        return Counts(
            self.candidate_bad + other.candidate_bad,
            self.candidate_n + other.candidate_n,
            self.stable_bad + other.stable_bad,
            self.stable_n + other.stable_n,
        )


@dataclass(frozen=True)
class Comparison:
    """Evidence of one guardrail between one candidate and stable, in constant memory.

    Args:
        key: Names the grid, which holds the margins of every step; evidence on another grid starts anew.
        log_sums: Over the odds-ratio grid, log of P_theta / P_1, summed over windows.
        log_harm: Over the alternatives beyond each odds ratio that harm begins at, log of the any-start mixture.
        log_beyond: Likewise over those beyond each tolerated difference of rates; see `differences`.
        base: Stable's bad events and requests, each window weighed by its age.
        windows: Windows taken in.
        total: Counts since the first traffic.
        step: Counts since the weight of this step was confirmed.
    """

    key: tuple[float, ...]
    log_sums: tuple[float, ...]
    log_harm: tuple[float, ...]
    log_beyond: tuple[float, ...] = ()
    base: tuple[float, float] = (0.0, 0.0)
    windows: int = 0
    total: Counts = field(default_factory=Counts)
    step: Counts = field(default_factory=Counts)


@dataclass(frozen=True)
class LimitEvidence:
    """Evidence that one arm breaks one hard limit: over the rates beyond it, log of the any-start mixture."""

    key: tuple[float, ...]
    log_mixture: tuple[float, ...]
    windows: int = 0
    n: int = 0


@dataclass(frozen=True)
class MeanEvidence:
    """Evidence about the difference of two means, in constant memory; see `means`.

    Args:
        key: Scale and margins; other ones start anew.
        log_worse: Over the bets, log of the supermartingale that grows when the candidate is worse.
        log_better: Its mirror image.
        log_harm: Over the bets, for each difference that harm begins at, log of the any-start mixture.
        weight: Sum over windows of the effective sample size, which weighs a window's difference.
        weighted: Sum of weight times difference (candidate minus stable, of values in [0, 1]).
        windows: Windows taken in.
        candidate_n: Values of the candidate; `candidate_total` is their sum.
        stable_n: Values of stable.
    """

    key: tuple[float, ...]
    log_worse: tuple[float, ...]
    log_better: tuple[float, ...]
    log_harm: tuple[float, ...]
    weight: float = 0.0
    weighted: float = 0.0
    windows: int = 0
    candidate_n: int = 0
    candidate_total: float = 0.0
    stable_n: int = 0
    stable_total: float = 0.0


@dataclass(frozen=True)
class SimilarityEvidence:
    """Evidence that answers to copies are less like those of users than a limit allows; see `similarity`.

    Args:
        key: The limit, as a mean of what is unlike.
        log_mixture: Over the means beyond it, log of the any-start mixture.
        n: Pairs of answers.
        unlike: Sum over them of what is unlike, 0 to 1 each.
        windows: Windows taken in.
    """

    key: tuple[float, ...]
    log_mixture: tuple[float, ...]
    n: int = 0
    unlike: float = 0.0
    windows: int = 0


@dataclass(frozen=True)
class DriftEvidence:
    """Evidence that two histograms differ, and the histograms themselves; see `drift`.

    Args:
        key: Number of buckets.
        log_unequal: Over strengths of shrinkage, log of the e-process against equal distributions.
        candidate: Counts by bucket since the first traffic, of the candidate; likewise of stable.
        step_candidate: Counts since the weight of this step was confirmed.
        windows: Windows taken in.
    """

    key: tuple[float, ...]
    log_unequal: tuple[float, ...]
    candidate: tuple[float, ...]
    stable: tuple[float, ...]
    step_candidate: tuple[float, ...]
    step_stable: tuple[float, ...]
    windows: int = 0


@dataclass(frozen=True)
class SplitEvidence:
    """Evidence that requests are not assigned as the weights say: over shifts of the log-odds, summed log-ratios."""

    log_sums: tuple[float, ...]
    key: tuple[float, ...]
    candidate_n: int = 0
    total_n: int = 0


@dataclass(frozen=True)
class Clock:
    """Per guardrail: end of the last window taken in, when data last came, and what was wrong with the last one."""

    last_end: float = float("-1e300")
    last_data: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Verdict:
    """One guardrail judged, in the user's own direction.

    `value`, `lower` and `upper` are what `measure` says: an `odds_ratio`, a `difference` of rates, a `mean_difference`
    (in the unit of the values), a `stability_index`, the rate beside a `hard_limit`, or a similarity, named by its
    kind, beside its limit; a bound that nothing is known about is None. `lower` and `upper` hold at once over all
    looks. `enough` says whether the step has its minimum of
    samples, and fresh ones; `met` whether the step's requirement is fulfilled. `candidate_rate` and `stable_rate` are
    shares of events, or means. `lift` is the odds ratio turned into a relative change of the rate of events (0.02 is
    2 % more) at stable's rate of all windows: exact for that rate, with the bounds of the odds ratio; None where it has
    no meaning. `part` is the latency objective in seconds that decided, where there are several.
    """

    guardrail: str
    arm: str
    outcome: Outcome
    requirement: Requirement
    enough: bool
    met: bool
    measure: str
    value: float | None
    lower: float | None
    upper: float | None
    margin: float | None
    candidate_rate: float | None
    stable_rate: float | None
    samples: int
    stable_samples: int
    step_samples: int
    minimum_samples: int
    log_evidence_harm: float
    log_evidence_needed: float
    explanation: str
    dry_run: bool = False
    improved: bool = False
    lift: float | None = None
    lift_lower: float | None = None
    lift_upper: float | None = None
    part: float | None = None


@dataclass(frozen=True)
class State:
    """All that a rollout remembers. Times are seconds of the clock that `decide` is given.

    A candidate is dropped when it does harm or another one wins; the rollout goes back when none is left.
    """

    phase: Phase
    candidates: tuple[Target, ...]
    stable: Target | None
    started: float
    phase_since: float
    known_good: Target | None = None
    reason: str = ""
    step: int = 0
    step_since: float | None = None
    traffic_since: float | None = None
    last_now: float = float("-1e300")
    dropped: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    mirrors: Mapping[str, int] = field(default_factory=dict)
    weights_confirmed: Mapping[str, int] = field(default_factory=dict)
    mismatch_since: float | None = None
    resume_to: Phase | None = None
    approved: bool = False
    skip: bool = False
    forced: bool = False
    aborted: bool = False
    were_ready: tuple[str, ...] = ()
    smoke_passed: tuple[str, ...] = ()
    restarts_at_start: Mapping[str, int] = field(default_factory=dict)
    watched: bool = False
    frozen_since: float | None = None
    stable_was_healthy: bool = True
    alias_moved: bool = False
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    limits: Mapping[str, LimitEvidence] = field(default_factory=dict)
    means: Mapping[str, MeanEvidence] = field(default_factory=dict)
    drifts: Mapping[str, DriftEvidence] = field(default_factory=dict)
    similarities: Mapping[str, SimilarityEvidence] = field(default_factory=dict)
    splits: Mapping[str, SplitEvidence] = field(default_factory=dict)
    clocks: Mapping[str, Clock] = field(default_factory=dict)
    step_samples: Mapping[str, int] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    alarm: str = ""
    queued: Target | None = None
    refused: str = ""
    went_back: tuple[str, ...] = ()
    handled: tuple[str, ...] = ()

    @property
    def active(self) -> tuple[Target, ...]:
        """The candidates that are still in the running."""
        return tuple(target for target in self.candidates if target.arm not in self.dropped)

    @property
    def candidate(self) -> Target:
        """The version that this rollout is about: the first that is still in the running."""
        return next(iter(self.active), self.candidates[0])

    @property
    def terminal(self) -> bool:
        """True when nothing is left to do until another version is wanted or someone says retry."""
        return self.phase in TERMINAL


# -------------------------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class StartArm:
    """Have the arm run with all its replicas; nothing to do where it does."""

    arm: str


@dataclass(frozen=True)
class SetWeights:
    """Have the gateway split traffic like this, in percent, and copy requests; arms not named get none of either.

    `assignment` says whether each request is drawn anew or a user stays with an arm.
    """

    weights: Mapping[str, int]
    mirrors: Mapping[str, int] = field(default_factory=dict)
    assignment: Literal["request", "user"] = "request"


@dataclass(frozen=True)
class StopArm:
    """Let the arm finish what is in flight, then stop it. Only ever asked for after its weight 0 was confirmed."""

    arm: str


@dataclass(frozen=True)
class SmokeTest:
    """Ask the arm directly and report whether its answers are well formed."""

    arm: str


@dataclass(frozen=True)
class MoveAlias:
    """Have the registry's alias name this version."""

    alias: str
    version: str


@dataclass(frozen=True)
class Alarm:
    """Tell a person; repeated until the cause has gone."""

    message: str


@dataclass(frozen=True)
class RecordEvent:
    """A line of history: a change of phase or step, or a command."""

    at: float
    kind: str
    message: str


@dataclass(frozen=True)
class RecordVerdicts:
    """The verdicts after new readings, with the weights under which they were made."""

    at: float
    step: int
    weights: Mapping[str, int]
    verdicts: tuple[Verdict, ...]


Action = StartArm | SetWeights | StopArm | SmokeTest | MoveAlias | Alarm | RecordEvent | RecordVerdicts
