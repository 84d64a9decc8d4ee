"""A limit on a share that a peer checks: what all of them measure of the candidate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.hypergeometric import Floats, Ints
from slipway.serving.rollout.simulation.windows import Bools, Windows

SLOWEST_SHARE = 0.1
"""Share of the requests slower than a policy's objective that are slower than half a second too."""
_PEER_LATENCY_LIMIT = 0.01
_PEER_ERROR_LIMIT = 0.01


@dataclass(frozen=True)
class Check:
    """The candidate's share of events must stay on one side of a limit.

    Args:
        guardrail: Whose events.
        limit: The share.
        higher_is_better: Which side is good.
        part: Share of the events that the check counts: a quantile limit at a higher latency counts fewer.
    """

    guardrail: str
    limit: float
    higher_is_better: bool = False
    part: float = 1.0


def documented_checks(policy: RolloutPolicy) -> tuple[Check, ...]:
    """Returns a success rate of at least 99 % and a 99th percentile of at most 500 ms, where the policy counts these.

    The 99th percentile is within 500 ms where no more than 1 % of requests are slower.
    """
    checks = [
        Check(guardrail.name, _PEER_ERROR_LIMIT)
        if guardrail.kind == "errors"
        else Check(guardrail.name, _PEER_LATENCY_LIMIT, part=SLOWEST_SHARE)
        for guardrail in policy.guardrails
        if guardrail.kind in ("errors", "latency") and not guardrail.dry_run
    ]
    return tuple(checks)


class Measured:
    """The candidate's counts over the last seconds, for R rollouts.

    Args:
        checks: What is counted.
        runs: Number of rollouts R.
        seed: Of which events a check with a `part` counts.
    """

    def __init__(self, checks: tuple[Check, ...], runs: int, seed: int) -> None:
        self._checks = checks
        self._rng = np.random.default_rng([seed, 7])
        self._events: Ints = np.zeros((len(checks), runs), dtype=np.int64)
        self._n: Ints = np.zeros((len(checks), runs), dtype=np.int64)

    def add(self, rows: Ints, windows: Windows) -> None:
        """Adds the windows that could be read."""
        read = windows.readable
        for index, check in enumerate(self._checks):
            own = windows.candidate[check.guardrail]
            events = own.events[read]
            counted = events if check.part == 1 else self._rng.binomial(events, check.part)
            self._events[index, rows[read]] += counted
            self._n[index, rows[read]] += own.n[read]

    def clear(self, rows: Ints) -> None:
        """Begins anew."""
        self._events[:, rows] = 0
        self._n[:, rows] = 0

    def shares(self, index: int, rows: Ints) -> Floats:
        """Returns the shares that one check is about, NaN without requests, shape [A]."""
        n = self._n[index, rows]
        return np.where(n > 0, self._events[index, rows] / np.maximum(n, 1), np.nan)

    def passes(self, rows: Ints) -> Bools:
        """Returns whether every check holds; one without requests does not."""
        good = np.ones(len(rows), dtype=np.bool_)
        for index, check in enumerate(self._checks):
            share = self.shares(index, rows)
            good &= share >= check.limit if check.higher_is_better else share <= check.limit
        return good
