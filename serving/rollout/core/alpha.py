"""How the one chance of error that a policy allows is shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slipway.contracts.rollout import Guardrail, RolloutPolicy


@dataclass(frozen=True)
class Levels:
    """Levels of the single tests.

    Args:
        harm: For each test that may take the candidate back. There are as many as guardrails that decide, once more
            for each hard limit, for each candidate; by the union bound they are wrong with chance alpha together.
        steps: Number of steps, among which what starts anew at each step shares its level.
        all: The policy's alpha, for proofs: the candidate goes on only if every guardrail that must be proven is, so
            a candidate beyond one margin passes with chance alpha at most, without sharing (intersection-union test;
            Berger 1982).
    """

    harm: float
    steps: int
    all: float

    @classmethod
    def of(cls, policy: RolloutPolicy, candidates: int = 1) -> Levels:
        """Returns the levels of a policy."""
        deciding = [guardrail for guardrail in policy.guardrails if not guardrail.dry_run]
        tests = len(deciding) + sum(guardrail.hard_limit is not None for guardrail in deciding)
        return cls(policy.alpha / max(1, tests * candidates), len(policy.steps), policy.alpha)

    @property
    def log_harm_needed(self) -> float:
        """Log evidence at which a test for harm decides."""
        return math.log(1 / self.harm)

    @property
    def log_mismatch_needed(self) -> float:
        """Log evidence at which the traffic split is called wrong; judged anew at each step."""
        return math.log(self.steps / self.all)

    def proof(self, guardrail: Guardrail) -> float:
        """Returns the level of each way in which a guardrail may be proven; two ways share it."""
        return self.all / (1 if guardrail.margin.odds_ratio is None or guardrail.margin.absolute is None else 2)

    @property
    def step(self) -> float:
        """The level of the lower bound of a difference of rates over a step, which is shown and decides nothing."""
        return self.harm / self.steps
