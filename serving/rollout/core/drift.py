"""Have the candidate's scores another distribution than stable's, and by how much?

Whether: an e-process. In a window, n_c values of the candidate fall into buckets as a, n_s values of stable as b. With
guesses p and q of the two distributions, made from earlier windows only, and r = (n_c p + n_s q) / (n_c + n_s),

    E <- E * product over buckets of (p / r)^a (q / r)^b

is a nonnegative supermartingale that starts at 1 whenever the two distributions are equal, whatever they are in that
window and however the traffic is split (Turner, Ly and Gruenwald 2024; for histograms also Lindon and Malek 2022): it
reaches 1/alpha with chance alpha at most. The guesses are an arm's own histogram shrunk towards that of both; E is the
mean over several strengths of shrinkage. With enough traffic any difference becomes evident, so that E alone decides
nothing: it says that what the second question measures is not chance.

By how much: the population stability index, sum of (p - q) log(p / q), with shares below `FLOOR` raised to it, as is
usual, since the index of an empty bucket would be infinite. Each share of each arm has a confidence sequence; the
largest index over all boxes of shares that these allow is its upper bound. For the lower bound, neighbouring buckets
are merged, which never raises the index and makes shares that are known better: it is the best over mergers into two
to twelve groups, with sequences that hold for the share of every run of buckets at once. Both hold at all looks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slipway.serving.rollout.core.evidence import log_mean_exp
from slipway.serving.rollout.core.hypergeometric import Floats
from slipway.serving.rollout.core.proportions import rate_intervals
from slipway.serving.rollout.core.types import DriftEvidence
from slipway.serving.rollout.core.windows import Buckets

FLOOR = 1e-3
_GROUPS = (2, 3, 4, 6, 8, 12)
_STRENGTHS = np.array([30.0, 300.0, 3_000.0, 30_000.0])
"""Values' worth of the common histogram that an arm's own is mixed with."""


def start(buckets: int) -> DriftEvidence:
    """Returns no evidence yet on histograms of so many buckets."""
    none = (0.0,) * buckets
    return DriftEvidence((float(buckets),), (0.0,) * len(_STRENGTHS), none, none, none, none)


def take(old: DriftEvidence, candidate: Buckets, stable: Buckets, *, in_step: bool) -> DriftEvidence:
    """Returns the evidence with one more window of both arms; `in_step` if it lies within the running step."""
    a, b = np.array(candidate.counts, dtype=np.float64), np.array(stable.counts, dtype=np.float64)
    before_c, before_s = np.array(old.candidate), np.array(old.stable)
    logs = np.array(old.log_unequal)
    if candidate.n and stable.n:
        common = before_c + before_s + 0.5
        common = common / common.sum()
        p, q = (
            (own + _STRENGTHS[:, None] * common) / (own.sum() + _STRENGTHS[:, None]) for own in (before_c, before_s)
        )
        r = (candidate.n * p + stable.n * q) / (candidate.n + stable.n)
        logs = logs + np.log(p / r) @ a + np.log(q / r) @ b
    return replace(
        old,
        log_unequal=tuple(logs.tolist()),
        candidate=tuple((before_c + a).tolist()),
        stable=tuple((before_s + b).tolist()),
        step_candidate=tuple((np.array(old.step_candidate) + a).tolist()) if in_step else old.step_candidate,
        step_stable=tuple((np.array(old.step_stable) + b).tolist()) if in_step else old.step_stable,
        windows=old.windows + 1,
    )


def log_evidence_unequal(evidence: DriftEvidence) -> float:
    """Returns log evidence that the two distributions differ."""
    return log_mean_exp(np.array(evidence.log_unequal))


def stability_index(candidate: Floats, stable: Floats) -> float:
    """Returns the population stability index of two histograms, shape [buckets], neither of them empty."""
    p, q = (np.maximum(counts / counts.sum(), FLOOR) for counts in (candidate, stable))
    return float(np.sum((p - q) * np.log(p / q)))


def index_bounds(candidate: Floats, stable: Floats, alpha_lower: float, alpha_upper: float) -> tuple[float, float]:
    """Returns a lower and an upper confidence sequence for the stability index, each at its own alpha.

    The counts must come from a time in which the traffic split did not change, as for a difference of rates.

    Args:
        candidate: Counts by bucket, shape [buckets].
        stable: Likewise.
        alpha_lower: Chance that the lower bound is ever above the index.
        alpha_upper: Chance that the upper one is ever below it.
    """
    runs = len(candidate) * (len(candidate) + 1) / 2
    least = max(_least_index(*_merged(candidate, stable, groups), alpha_lower / 2 / runs) for groups in _GROUPS)
    level = alpha_upper / 2 / len(candidate)
    (low_c, high_c), (low_s, high_s) = _shares(candidate, level), _shares(stable, level)
    most = float(np.sum(np.maximum(_terms(low_c, high_s), _terms(high_c, low_s))))
    return least, most


def _terms(p: Floats, q: Floats) -> Floats:
    p, q = np.maximum(p, FLOOR), np.maximum(q, FLOOR)
    return np.asarray((p - q) * np.log(p / q))


def _merged(candidate: Floats, stable: Floats, groups: int) -> tuple[Floats, Floats]:
    """Returns both histograms with neighbouring buckets merged into groups of about equal share of both arms."""
    common = candidate / candidate.sum() + stable / stable.sum()
    middle = (np.cumsum(common) - common / 2) / 2
    group = np.minimum((middle * groups).astype(np.int64), groups - 1)
    own, other = np.zeros(groups), np.zeros(groups)
    np.add.at(own, group, candidate)
    np.add.at(other, group, stable)
    return own, other


def _least_index(candidate: Floats, stable: Floats, alpha: float) -> float:
    """Returns the smallest index within the boxes: a bucket adds to it where its two intervals do not meet."""
    (low_c, high_c), (low_s, high_s) = _shares(candidate, alpha), _shares(stable, alpha)
    above, below = low_c > high_s, low_s > high_c
    nearest = np.where(above, _terms(low_c, high_s), _terms(high_c, low_s))
    return float(np.sum(np.where(above | below, nearest, 0.0)))


def _shares(counts: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Returns bounds of the share of each bucket, each at its own alpha, shape [buckets] each."""
    whole = np.rint(counts).astype(np.int64)
    return rate_intervals(whole, np.full_like(whole, whole.sum()), alpha)
