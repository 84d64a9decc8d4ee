"""Before the start: how many users an experiment needs, and what it can see.

For a fixed horizon, looked at once, by the normal approximation; for the sequential test, looked at as often as one
likes, from the typical growth of its evidence, with a simulation that says what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import norm

from slipway.contracts.errors import UsageError
from slipway.serving.experiments.evidence import GRID, Alternative, PairCounts, log_e_value, log_sums_of
from slipway.serving.rollout.core.hypergeometric import Floats, log_likelihoods

_MOST_USERS = 1e12


@dataclass(frozen=True)
class Design:
    """What an experiment is to see.

    Args:
        baseline: Rate of the control: 0.15 where 15 of 100 users have the event.
        lift: Relative change: 0.02 takes 0.15 to 0.153.
        alpha: Chance of a false alarm where there is no difference.
        power: Chance of seeing the lift where it is there.
        candidate_share: Part of the users that gets the candidate.
        two_sided: Whether a change to either side is to be seen.

    Raises:
        UsageError: A number that cannot be.
    """

    baseline: float
    lift: float
    alpha: float = 0.05
    power: float = 0.8
    candidate_share: float = 0.5
    two_sided: bool = True

    def __post_init__(self) -> None:
        for name, value in (("baseline", self.baseline), ("candidate_share", self.candidate_share)):
            if not 0 < value < 1:
                raise UsageError(f"{name} is {value}; it must be between 0 and 1")
        if not 0 < self.alpha < 0.5 or not self.alpha < self.power < 1:
            raise UsageError(f"alpha {self.alpha} and power {self.power} cannot be: 0 < alpha < 0.5, alpha < power < 1")
        if self.lift == 0 or not 0 < self.rate < 1:
            raise UsageError(
                f"a lift of {self.lift:+.2%} on a rate of {self.baseline:.2%} cannot be seen",
                remedy="Give a lift that is not 0 and leaves the rate between 0 and 1.",
            )

    @property
    def rate(self) -> float:
        """Rate of the candidate."""
        return self.baseline * (1 + self.lift)

    @property
    def alternative(self) -> Alternative:
        """What the test looks for."""
        return "different" if self.two_sided else "higher" if self.lift > 0 else "lower"


def fixed_users(design: Design) -> int:
    """Returns the users of both arms for a test of two proportions that is looked at once, at the end.

    Fleiss, Levin and Paik 2003, section 4.2, without the correction for continuity.
    """
    share, p1, p2 = design.candidate_share, design.baseline, design.rate
    pooled = (1 - share) * p1 + share * p2
    null = math.sqrt(pooled * (1 - pooled) / (share * (1 - share)))
    spread = math.sqrt(p2 * (1 - p2) / share + p1 * (1 - p1) / (1 - share))
    needed = _critical(design) * null + float(norm.ppf(design.power)) * spread
    return math.ceil((needed / (p2 - p1)) ** 2)


def fixed_power(design: Design, users: int) -> float:
    """Returns the power of that test with so many users of both arms; the other side's share is left out."""
    share, p1, p2 = design.candidate_share, design.baseline, design.rate
    pooled = (1 - share) * p1 + share * p2
    null = math.sqrt(pooled * (1 - pooled) / (share * (1 - share)))
    spread = math.sqrt(p2 * (1 - p2) / share + p1 * (1 - p1) / (1 - share))
    return float(norm.cdf((abs(p2 - p1) * math.sqrt(users) - _critical(design) * null) / spread))


def sequential_users(design: Design) -> int:
    """Returns the users of both arms by which the sequential test has seen the lift with the chance `power`.

    Evidence grows by a typical amount a user, and varies as the candidate's events do; the figure is that at which the
    evidence of an unlucky experiment, at the quantile that `power` leaves, suffices. Since any earlier look may have
    sufficed, the true power is a little higher.
    """
    growth, variance = _growth(design)
    z = -float(norm.ppf(design.power)) * (1 if design.lift > 0 else -1)

    def seen(users: float) -> bool:
        sums = users * growth + z * math.sqrt(users * variance) * GRID
        return log_e_value(sums, design.alternative) >= math.log(1 / design.alpha)

    return _first(seen)


def minimum_detectable_lift(design: Design, users: int, *, sequential: bool = False) -> float:
    """Returns the smallest lift, of the sign of the design's, that `users` of both arms show with its power.

    Raises:
        UsageError: Not even the greatest change that the rate allows would show.
    """
    sign = 1 if design.lift > 0 else -1
    needed: Callable[[Design], int] = sequential_users if sequential else fixed_users
    low, high = 0.0, (0.999 if sign < 0 else (0.999 - design.baseline) / design.baseline)
    if high <= 0 or needed(_with_lift(design, sign * high)) > users:
        raise UsageError(f"{users:,} users show no lift at all at a rate of {design.baseline:.2%}")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(_with_lift(design, sign * middle)) <= users else (middle, high)
        if high - low < 1e-4 * high:
            break
    return sign * high


@dataclass(frozen=True)
class SequentialPower:
    """What simulated experiments came to.

    Args:
        power: Part of them that saw something.
        mean_users: Users of both arms until they did, or all of them, on average.
        median_users: The same, typically.
        runs: Experiments simulated.
    """

    power: float
    mean_users: float
    median_users: float
    runs: int


def simulate(
    design: Design, users: int, looks: int, rng: np.random.Generator, *, runs: int = 400, lift: float | None = None
) -> SequentialPower:
    """Simulates the sequential test, stopped at the first look that suffices.

    Args:
        design: What the test looks for, and at which level.
        users: Of both arms, at the last look.
        looks: Their number, evenly spread.
        rng: Seeded by the caller.
        runs: Experiments.
        lift: The true lift, if it is another than the design's; 0 gives the rate of false alarms.
    """
    rate = design.rate if lift is None else design.baseline * (1 + lift)
    edges = np.linspace(0, users, looks + 1).astype(int).tolist()
    stopped = []
    for _ in range(runs):
        sums = np.zeros(len(GRID))
        for before, after in pairwise(edges):
            n_c = int(rng.binomial(after - before, design.candidate_share))
            n_s = after - before - n_c
            window = PairCounts(int(rng.binomial(n_c, rate)), n_c, int(rng.binomial(n_s, design.baseline)), n_s)
            sums = sums + log_sums_of([window])
            if log_e_value(sums, design.alternative) >= math.log(1 / design.alpha):
                stopped.append(after)
                break
    ends = np.array(stopped + [users] * (runs - len(stopped)))
    return SequentialPower(len(stopped) / runs, float(ends.mean()), float(np.median(ends)), runs)


def _critical(design: Design) -> float:
    return float(norm.isf(design.alpha / (2 if design.two_sided else 1)))


def _with_lift(design: Design, lift: float) -> Design:
    return Design(design.baseline, lift, design.alpha, design.power, design.candidate_share, two_sided=design.two_sided)


def _growth(design: Design) -> tuple[Floats, float]:
    """Returns, per user, the typical growth of the log-sums, shape [J], and the variance of the candidate's events."""
    share, p1, p2 = design.candidate_share, design.baseline, design.rate
    rarest = min(share * p2 + (1 - share) * p1, 1 - share * p2 - (1 - share) * p1)
    size = max(20_000, math.ceil(400 / rarest))
    n_c = round(size * share)
    n_s = size - n_c
    k = round(n_c * p2 + n_s * p1)
    x = n_c * p2 + (k - n_c * p2 - n_s * p1) * share
    sums = log_likelihoods(x, n_c, n_s, k, GRID)
    variance = 1 / (1 / (n_c * p2 * (1 - p2)) + 1 / (n_s * p1 * (1 - p1)))
    return (sums - sums[int(np.searchsorted(GRID, 0.0))]) / size, variance / size


def _first(holds: Callable[[float], bool]) -> int:
    high = 16.0
    while not holds(high):
        high *= 2
        if high > _MOST_USERS:
            raise UsageError(f"more than {_MOST_USERS:.0g} users would be needed", remedy="Look for a greater lift.")
    low = high / 2
    while high - low > 0.001 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return math.ceil(high)
