"""What the evidence of one guardrail says against one margin: an effect, its bounds, harmful or proven or better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slipway.contracts.rollout import Guardrail, RolloutPolicy
from slipway.serving.rollout.core import drift, means, similarity
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.differences import BEYOND
from slipway.serving.rollout.core.evidence import bounds, log_evidence_below, log_mean_exp, point_estimate
from slipway.serving.rollout.core.ingest import limit_of
from slipway.serving.rollout.core.odds_grid import log_lift, log_margins, odds_grid, tolerated_differences
from slipway.serving.rollout.core.proportions import difference_interval, rate_interval
from slipway.serving.rollout.core.types import Comparison, Counts, DriftEvidence, MeanEvidence, SimilarityEvidence


@dataclass(frozen=True)
class Finding:
    """One way of looking at a guardrail: `measure` as in Verdict, in the direction in which larger is worse.

    An odds ratio is one of bad events, as its logarithm; differences of means are on the scale of 0 to 1.
    """

    measure: str
    value: float
    lower: float
    upper: float
    margin: float
    harmful: bool
    proven: bool
    improved: bool = False
    log_harm: float = 0.0
    log_harm_needed: float = 0.0


def odds_ratio(guardrail: Guardrail, comparison: Comparison, policy: RolloutPolicy, levels: Levels) -> Finding | None:
    """Returns what the odds ratio says; None where the margin names none, or the evidence is on another grid.

    Args:
        guardrail: With the margin of the running step.
        comparison: Its evidence.
        policy: For the grid, which holds the margins of all steps.
        levels: The level of harm is shared among the odds ratios that harm begins at, at one step or another.
    """
    margin, harm = log_margins(guardrail)
    grid = odds_grid(policy, guardrail)
    if margin is None or harm is None or comparison.key != grid.key:
        return None
    sums = np.array(comparison.log_sums)
    level = levels.harm / len(grid.harms)
    lower, upper = bounds(sums, grid.points, level, levels.proof(guardrail))
    log_harm = log_mean_exp(np.array(comparison.log_harm)[grid.mixture(harm)])
    return Finding(
        "odds_ratio",
        point_estimate(sums, grid.points),
        lower,
        upper,
        margin,
        harmful=log_harm >= math.log(1 / level),
        proven=log_evidence_below(sums, grid.points, margin) >= math.log(1 / levels.proof(guardrail)),
        improved=log_evidence_below(sums, grid.points, log_lift(guardrail)) >= math.log(1 / levels.all),
        log_harm=log_harm,
        log_harm_needed=math.log(1 / level),
    )


def difference(guardrail: Guardrail, comparison: Comparison, policy: RolloutPolicy, levels: Levels) -> Finding:
    """Returns what the difference of rates says: harm by all windows, value, bounds and proof by the running step.

    Args:
        guardrail: With the margin of the running step.
        comparison: Its evidence.
        policy: For the differences that harm begins at, at one step or another; the level of harm is shared among them.
        levels: The levels.
    """
    margin, step = guardrail.margin.absolute or 0.0, comparison.step
    differences = tolerated_differences(policy, guardrail)
    level = levels.harm / len(differences)
    lower = _difference_of(step, levels.step)[0]
    upper = _difference_of(step, levels.proof(guardrail))[1]
    begin = differences.index(margin) * len(BEYOND)
    log_harm = log_mean_exp(np.array(comparison.log_beyond[begin : begin + len(BEYOND)]))
    value = math.nan
    if step.candidate_n and step.stable_n:
        value = step.candidate_bad / step.candidate_n - step.stable_bad / step.stable_n
    return Finding(
        "difference",
        value,
        lower,
        upper,
        margin,
        harmful=log_harm >= math.log(1 / level),
        proven=upper <= margin,
        log_harm=log_harm,
        log_harm_needed=math.log(1 / level),
    )


def mean_difference(
    guardrail: Guardrail, evidence: MeanEvidence, policy: RolloutPolicy, levels: Levels
) -> Finding | None:
    """Returns what the difference of means says; None where the evidence is on another scale or for other margins."""
    harms, scale = tolerated_differences(policy, guardrail), guardrail.scale
    if evidence.key != (scale, *harms):
        return None
    margin = (guardrail.margin.absolute or 0.0) / scale
    level = levels.harm / len(harms)
    lower, upper = means.mean_bounds(evidence, level, levels.proof(guardrail))
    log_harm = means.log_evidence_harm(evidence, harms.index(margin))
    not_worse = means.log_evidence_not_worse(evidence, margin)
    better = means.log_evidence_not_worse(evidence, -guardrail.minimum_gain / scale)
    value = evidence.weighted / evidence.weight if evidence.weight else math.nan
    return Finding(
        "mean_difference",
        -value if guardrail.higher_is_better else value,
        lower,
        upper,
        margin,
        harmful=log_harm >= math.log(1 / level),
        proven=not_worse >= math.log(1 / levels.proof(guardrail)),
        improved=better >= math.log(1 / levels.all),
        log_harm=log_harm,
        log_harm_needed=math.log(1 / level),
    )


def stability_index(guardrail: Guardrail, evidence: DriftEvidence, levels: Levels) -> Finding:
    """Returns what the histograms of the running step say.

    Harm needs both: that the distributions differ, by all windows, and that the index of this step is beyond the
    margin. Equal distributions therefore fail with chance `levels.harm` at most, and so do those within the margin.
    """
    margin = guardrail.margin.absolute or 0.0
    log_unequal = drift.log_evidence_unequal(evidence)
    candidate, stable = np.array(evidence.step_candidate), np.array(evidence.step_stable)
    value, lower, upper = math.nan, -math.inf, math.inf
    if candidate.sum() and stable.sum():
        value = drift.stability_index(candidate, stable)
        lower, upper = drift.index_bounds(candidate, stable, levels.harm / levels.steps, levels.proof(guardrail))
    return Finding(
        "stability_index",
        value,
        lower,
        upper,
        margin,
        harmful=log_unequal >= levels.log_harm_needed and lower > margin,
        proven=upper <= margin,
        log_harm=log_unequal,
        log_harm_needed=levels.log_harm_needed,
    )


def similarity_limit(guardrail: Guardrail, evidence: SimilarityEvidence, levels: Levels) -> list[Finding]:
    """Returns what answers to copies say about the limit, as means of what is unlike; nothing where it was another."""
    limit = similarity.limit_of(guardrail)
    if evidence.key != (limit,):
        return []
    value, lower, upper = math.nan, -math.inf, math.inf
    if evidence.n:
        value = evidence.unlike / evidence.n
        lower = similarity.bounds(evidence, levels.harm)[0]
        upper = similarity.bounds(evidence, levels.proof(guardrail))[1]
    log_harm = log_mean_exp(np.array(evidence.log_mixture))
    return [
        Finding(
            guardrail.kind,
            value,
            lower,
            upper,
            limit,
            harmful=log_harm >= levels.log_harm_needed,
            proven=upper <= limit,
            log_harm=log_harm,
            log_harm_needed=levels.log_harm_needed,
        )
    ]


def hard_limit(guardrail: Guardrail, total: Counts, levels: Levels) -> Finding:
    """Returns the rate beside a hard limit that is broken."""
    rate = total.candidate_bad / total.candidate_n if total.candidate_n else math.nan
    lower, upper = rate_interval(total.candidate_bad, total.candidate_n, levels.harm)
    return Finding("hard_limit", rate, lower, upper, limit_of(guardrail) or 0.0, harmful=True, proven=False)


def _difference_of(counts: Counts, alpha: float) -> tuple[float, float]:
    return difference_interval(counts.candidate_bad, counts.candidate_n, counts.stable_bad, counts.stable_n, alpha)
