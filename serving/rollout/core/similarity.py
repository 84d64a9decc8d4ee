"""Are the answers to copies like those that users got: the mean of one arm against a limit of its own.

What is unlike in a pair of answers lies between 0 and 1. For such a value X with mean p,

    (q/p)^X ((1-q)/(1-p))^(1-X)

is convex in X, so that its expectation is that of an event of chance p at most, which is 1 (Hoeffding 1963): whatever
is exact for events out of n is safe for sums of such values out of n. So these are the one-arm confidence sequence and
the evidence for a hard limit of `proportions`, with fractions for events; wider than they would have to be where pairs
hardly differ. They hold for pairs whose mean does not depend on the pairs before.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from slipway.contracts.rollout import Guardrail
from slipway.serving.rollout.core.evidence import start_any_time, update_any_time
from slipway.serving.rollout.core.proportions import rate_interval, rates_beyond
from slipway.serving.rollout.core.types import SimilarityEvidence
from slipway.serving.rollout.core.windows import Moments


def limit_of(guardrail: Guardrail) -> float:
    """Returns the largest mean of what is unlike that a guardrail allows, between 0 and 1."""
    limit = 0.5 if guardrail.limit is None else guardrail.limit
    return 1 - limit if guardrail.higher_is_better else limit


def take(old: SimilarityEvidence | None, window: Moments, guardrail: Guardrail) -> SimilarityEvidence:
    """Returns the evidence with one more window; evidence against another limit starts anew.

    Args:
        old: Before, None at the start.
        window: Similarities (or differences, for a `score_difference`) of pairs of answers.
        guardrail: With its limit.
    """
    limit = limit_of(guardrail)
    rates = rates_beyond(limit)
    if old is None or old.key != (limit,):
        old = SimilarityEvidence((limit,), tuple(start_any_time(len(rates)).tolist()))
    if window.n == 0:
        return old
    unlike = window.n - window.total if guardrail.higher_is_better else window.total
    ratios = unlike * np.log(rates / limit) + (window.n - unlike) * np.log((1 - rates) / (1 - limit))
    mixture = update_any_time(np.array(old.log_mixture), ratios, old.windows, math.inf)
    return replace(
        old,
        log_mixture=tuple(mixture.tolist()),
        n=old.n + window.n,
        unlike=old.unlike + unlike,
        windows=old.windows + 1,
    )


def bounds(evidence: SimilarityEvidence, alpha: float) -> tuple[float, float]:
    """Returns a confidence sequence for the mean of what is unlike; sums are rounded outwards to whole events."""
    n = evidence.n
    lower, _ = rate_interval(min(n, math.floor(evidence.unlike)), n, alpha)
    _, upper = rate_interval(min(n, math.ceil(evidence.unlike)), n, alpha)
    return lower, upper
