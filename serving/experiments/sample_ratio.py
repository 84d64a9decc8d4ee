"""Did each arm get the users that its weight says? A check that may be made at every look.

Under the set weights the arms of successive users are independent draws. Against that stands a Dirichlet mixture of
other weights round the set ones; the ratio of the two likelihoods is a martingale from 1, user by user, so that it
reaches 1/alpha with chance alpha at most, however often it is looked at. It depends on the totals only.

Lindon and Malek 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import gammaln

_CONCENTRATION = 200.0
"""Weight of the mixture's centre: at 50 %, its standard deviation is 3.5 points."""


def log_evidence_of_mismatch(users: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Returns log evidence that users are not assigned as the weights say.

    Args:
        users: Users so far, by arm, each counted once. Requests will not do: those of one user hang together.
        weights: Percent set, by arm, the same all the time.
    """
    if any(users.get(arm, 0) for arm in users if not weights.get(arm)):
        return math.inf
    arms = [arm for arm, weight in weights.items() if weight > 0]
    counts = np.array([users.get(arm, 0) for arm in arms], dtype=np.float64)
    shares = np.array([weights[arm] for arm in arms], dtype=np.float64)
    shares = shares / shares.sum()
    prior = _CONCENTRATION * shares
    log_mixture = (
        gammaln(_CONCENTRATION)
        - gammaln(_CONCENTRATION + counts.sum())
        + float((gammaln(prior + counts) - gammaln(prior)).sum())
    )
    return float(log_mixture - counts @ np.log(shares))
