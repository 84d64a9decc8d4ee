"""Does each arm get the traffic that the weights say? Sample-ratio mismatch, valid under continuous looks.

Given the requests of a window, those of the candidate are binomial with the set weight. Shifts of the log-odds by a
grid of deltas are the alternatives; the set weight may differ from window to window. A gateway that deals requests out
in turn varies less than a binomial, which only makes this more cautious. With a mismatch, the arms did not get
comparable requests, and no comparison passes.

Lindon and Malek 2022.
"""

from __future__ import annotations

import math

import numpy as np

from slipway.serving.rollout.core.evidence import log_evidences_above, log_evidences_below
from slipway.serving.rollout.core.hypergeometric import Floats, Ints


def shift_grid(tolerance: float) -> Floats:
    """Returns shifts of the log-odds of assignment, with those of the tolerated relative error put in."""
    edge = math.log1p(tolerance)
    steps = [0.0, *(edge + 0.05 * 1.5**index for index in range(11))]
    return np.array(sorted({*steps, *(-value for value in steps), edge, -edge}))


def log_split_likelihoods(
    candidate_n: int | Ints, total_n: int | Ints, weight: float | Floats | Ints, shifts: Floats
) -> Floats:
    """Returns log-likelihoods of the shifts for one window, up to a constant, shape [..., J].

    Args:
        candidate_n: Requests that the candidate got, a number or shape [...].
        total_n: Requests of both arms.
        weight: Percent set for the candidate, between 0 and 100, a number or shape [...].
        shifts: Shifts of the log-odds, shape [J].
    """
    share = np.asarray(weight)[..., None]
    logit = np.log(share / (100 - share)) + shifts
    candidate, total = np.asarray(candidate_n)[..., None], np.asarray(total_n)[..., None]
    return np.asarray(-candidate * np.logaddexp(0, -logit) - (total - candidate) * np.logaddexp(0, logit))


def log_evidence_of_mismatch(log_sums: Floats, shifts: Floats, tolerance: float) -> float:
    """Returns log evidence that the odds of assignment are off by more than the tolerance, to either side.

    The mean of two e-values, one a side, is one; so is half of the larger.
    """
    return float(log_evidences_of_mismatch(log_sums, shifts, tolerance))


def log_evidences_of_mismatch(log_sums: Floats, shifts: Floats, tolerance: float) -> Floats:
    """Returns the same for log-sums of many rollouts at once, of shape [..., J]."""
    edge = math.log1p(tolerance)
    above, below = log_evidences_above(log_sums, shifts, edge), log_evidences_below(log_sums, shifts, -edge)
    return np.asarray(np.maximum(above, below) - math.log(2))
