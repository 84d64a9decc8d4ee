"""Is the candidate's rate of bad events above stable's by more than a margin: evidence that adds up over all windows.

Within one window, with n_c requests of the candidate and n_s of stable, a centre m between 0 and 1 - d and bets that
balance, n_c a = n_s b,

    product over the candidate's X of (1 + a (X - m - d))   times   product over stable's Y of (1 - b (Y - m))

has, by log(1 + z) <= z, an expectation of at most exp(n_c a (difference of the true rates - d)): at most 1 for every
candidate that is worse by d at most, whatever the base rate of the window is and however the split depends on the past.
The products over windows are therefore supermartingales, which no change of the weights and no swing that both arms
share can turn into evidence, and they need not begin anew at a step.

Any m and any bets are valid. Those taken here are the best ones against an alternative: its likelihood over that of the
nearest pair of rates (p, q) with p - q = d, the reverse information projection, whose bets balance by themselves
(Turner, Ly and Gruenwald 2024; Gruenwald, de Heide and Koolen 2024). The alternatives are a grid of odds beyond the
margin, at the base rate that earlier windows suggest.
"""

from __future__ import annotations

import numpy as np

from slipway.serving.rollout.core.hypergeometric import Floats, Ints

BEYOND: Floats = np.geomspace(0.05, 3.2, 9)
"""Log odds ratios of the alternatives against the rate that is just tolerated: each twice or so the one before."""
BEYOND.setflags(write=False)

MEMORY = 0.98
"""What a window's counts weigh one window later in the guess of the base rate: some fifty windows are remembered."""
_NEWTON_STEPS = 4
_LARGEST_LOSS = 0.99
"""A bet may lose no more than this share of the evidence at one request."""


def guess_of(bad: float | Floats, n: float | Floats, margin: float) -> Floats:
    """Returns the base rate that earlier windows suggest, of the shape of `bad` and `n`; the margin itself at first.

    Args:
        bad: Stable's bad events in them, each window weighed by its age.
        n: Its requests, likewise.
        margin: The difference that is tolerated.
    """
    return np.asarray((np.asarray(bad) + margin) / (np.asarray(n) + 1.0))


def log_difference_ratios(
    candidate_bad: int | Ints,
    candidate_n: int | Ints,
    stable_bad: int | Ints,
    stable_n: int | Ints,
    guess: float | Floats,
    margin: float,
) -> Floats:
    """Returns what one window adds to the log evidence against "worse by `margin` at most", by alternative.

    Args:
        candidate_bad: Bad events of the candidate, shape [...].
        candidate_n: Its requests, likewise.
        stable_bad: Bad events of stable.
        stable_n: Its requests.
        guess: Base rate that earlier windows suggest, shape [...].
        margin: The difference that is tolerated, above 0 and below 1.

    Returns:
        Shape [..., J] for J alternatives; zeros where one arm has no requests.
    """
    x, n_c, y, n_s = (
        np.asarray(part, dtype=np.float64)[..., None] for part in (candidate_bad, candidate_n, stable_bad, stable_n)
    )
    both = (n_c > 0) & (n_s > 0)
    n_c, n_s = np.where(both, n_c, 1.0), np.where(both, n_s, 1.0)
    base = np.clip(np.asarray(guess)[..., None], 1e-9, (1 - margin) * 0.999)
    edge = base + margin
    odds = edge / (1 - edge) * np.exp(BEYOND)
    target = odds / (1 + odds)
    centre = _projection(base, target, n_c / (n_c + n_s), margin)
    tolerated = centre + margin
    bet = (target - tolerated) / (tolerated * (1 - tolerated))
    bet = np.minimum(bet, _LARGEST_LOSS * n_s / (n_c * (1 - centre)))
    other = bet * n_c / n_s
    found = (
        x * np.log1p(bet * (1 - tolerated))
        + (n_c - x) * np.log1p(-bet * tolerated)
        + y * np.log1p(-other * (1 - centre))
        + (n_s - y) * np.log1p(other * centre)
    )
    return np.asarray(np.where(both, found, 0.0))


def _projection(base: Floats, target: Floats, share: Floats, margin: float) -> Floats:
    """Returns, nearly, stable's rate of the tolerated pair of rates that is nearest to (target, base).

    It is the root of a function that falls from `base`, where the candidate's part is positive, to `target - margin`.
    """
    low, high = base, target - margin
    weight = share / (target * (1 - target)), (1 - share) / (base * (1 - base))
    centre = (weight[0] * high + weight[1] * low) / (weight[0] + weight[1])
    for _ in range(_NEWTON_STEPS):
        tolerated = centre + margin
        own, stable = tolerated * (1 - tolerated), centre * (1 - centre)
        height = share * (target - tolerated) / own - (1 - share) * (centre - base) / stable
        slope = share * (1 / own + (target - tolerated) * (1 - 2 * tolerated) / own**2) + (1 - share) * (
            1 / stable - (centre - base) * (1 - 2 * centre) / stable**2
        )
        low, high = np.where(height > 0, centre, low), np.where(height > 0, high, centre)
        moved = centre + height / np.where(slope > 0, slope, np.inf)
        centre = np.where((moved > low) & (moved < high), moved, (low + high) / 2)
    return np.asarray(centre)
