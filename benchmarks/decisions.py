"""How often a rollout's guardrail decides wrongly, how soon rightly, and what a look costs.

Simulates windows of 1,000 requests with a base rate that swings between 0.1 and 1.9 %, an odds ratio that is given,
and a look after every window. Beside the evidence that the rollout uses stand a two-proportion z-test at every look
(5 % one-sided) and a plain threshold (candidate's rate above 1.5 times stable's, five windows in a row), which is how
analysis by thresholds works. Then: a fault that begins late, all of `decide` with its default guardrails, and its time.
Prints one JSON object. Run: python benchmarks/decisions.py [--runs 400]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from typing import Any

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutPolicy, RolloutSpec
from slipway.serving.rollout.core.decide import decide, new_state
from slipway.serving.rollout.core.evidence import (
    log_evidence_above,
    log_mean_exp,
    log_odds_grid,
    start_any_time,
    update_any_time,
)
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import (
    ArmObservation,
    MoveAlias,
    Observations,
    SetWeights,
    SmokeTest,
    SmokeTestResult,
    StartArm,
    State,
    StopArm,
    WindowCount,
)

ALPHA, WINDOWS = 0.05, 400
GRID = log_odds_grid()
ONE = int(np.searchsorted(GRID, 0.0))
RATES = {"errors": 0.002, "latency": 0.02, "fallbacks": 0.01, "clicks": 0.3}


def one_run(rng: np.random.Generator, split: tuple[int, int], odds_ratio: float, harm_from: int) -> dict[str, int]:
    """Returns, per method, the window at which it stopped the candidate; nothing where it did not."""
    harm, sums = start_any_time(len(GRID) - ONE - 1), np.zeros(len(GRID))
    stopped: dict[str, int] = {}
    totals, breaches = np.zeros(4), 0
    for index in range(WINDOWS):
        base = 0.01 + 0.009 * math.sin(index / 7)
        ratio = odds_ratio if index >= harm_from else 1.0
        rate = ratio * base / (1 - base + ratio * base)
        x, y = int(rng.binomial(split[0], rate)), int(rng.binomial(split[1], base))
        likelihoods = log_likelihoods(x, *split, x + y, GRID)
        sums += likelihoods - likelihoods[ONE]
        harm = update_any_time(harm, likelihoods[ONE + 1 :] - likelihoods[ONE], index, math.inf)
        totals += (x, split[0], y, split[1])
        breaches = breaches + 1 if x / split[0] > 1.5 * y / split[1] else 0
        methods = {
            "slipway": log_mean_exp(harm) >= math.log(1 / ALPHA),
            "slipway, harm from the start only": log_evidence_above(sums, GRID, 0.0) >= math.log(1 / ALPHA),
            "z-test at every look": z_score(totals) > 1.6449,
            "threshold, five in a row": breaches >= 5,
        }
        for name, stops in methods.items():
            if stops:
                stopped.setdefault(name, index + 1)
    return stopped


def z_score(totals: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Returns the z-score of a two-proportion test over all counts so far."""
    x, n, y, m = totals
    pooled = (x + y) / (n + m)
    spread = math.sqrt(max(pooled * (1 - pooled) * (1 / n + 1 / m), 1e-18))
    return float((x / n - y / m) / spread)


def table(runs: int, split: tuple[int, int], odds_ratio: float, harm_from: int = 0) -> dict[str, dict[str, float]]:
    """Returns, per method, the share of runs stopped, and the median window after the harm began."""
    rng = np.random.default_rng(1)
    results = [one_run(rng, split, odds_ratio, harm_from) for _ in range(runs)]
    summary = {}
    for name in ("slipway", "slipway, harm from the start only", "z-test at every look", "threshold, five in a row"):
        windows = [result[name] for result in results if name in result]
        early = sum(window <= harm_from for window in windows)
        right = [window - harm_from for window in windows if window > harm_from]
        summary[name] = {
            "stopped": round(len(right) / runs, 3),
            "median window": statistics.median(right) if right else math.nan,
            **({"stopped before the harm": round(early / runs, 3)} if harm_from else {}),
        }
    return summary


def whole_rollout(seed: int, candidate: dict[str, float], requests: int) -> tuple[str, float, list[float]]:
    """Returns the final phase, the seconds it took, and the milliseconds of each call of `decide`."""
    rng = np.random.default_rng(seed)
    steps = [{"weight": weight, "minimum_dwell": "10s"} for weight in (5, 25, 50, 100)]
    policy = RolloutPolicy.model_validate({"steps": steps, "deadline": "1h"})
    arms = (ArmTarget(arm="m-v2", version="2"),)
    spec = RolloutSpec(id="b", model="m", candidates=arms, stable=ArmTarget(arm="m-v1", version="1"), policy=policy)
    now, state = 0.0, new_state(spec, 0.0)
    weights, running, champion, smoke, spent = {"m-v1": 100}, {"m-v1"}, "1", None, []
    while not state.terminal and now < 7200:
        counts, total = [], int(rng.poisson(requests))
        share = round(total * weights.get("m-v2", 0) / 100)
        for arm, n, rates in (("m-v2", share, RATES | candidate), ("m-v1", total - share, RATES)):
            counts += [WindowCount(g, arm, now, now + 1, int(rng.binomial(n, rate)), n) for g, rate in rates.items()]
            counts.append(WindowCount(ASSIGNMENT, arm, now, now + 1, 0, n))
        now += 1
        seen = Observations(
            at=now,
            arms={arm: ArmObservation(2, 2, weight_applied=weights.get(arm, 0)) for arm in running},
            counts=tuple(counts),
            smoke_test=smoke,
            champion=champion,
        )
        smoke = None
        stored = from_json(State, to_json(state))
        started = time.perf_counter()
        state, actions = decide(stored, seen, policy, now)
        spent.append(1000 * (time.perf_counter() - started))
        for action in actions:
            match action:
                case StartArm(arm=arm):
                    running.add(arm)
                case SetWeights(weights=asked):
                    weights = dict(asked)
                case StopArm(arm=arm):
                    running.discard(arm)
                case SmokeTest(arm=arm):
                    smoke = SmokeTestResult(arm, True)
                case MoveAlias(version=version):
                    champion = version
                case _:
                    pass
    return str(state.phase), now, spent


def whole_table(runs: int) -> dict[str, dict[str, float]]:
    """Returns, per kind of candidate, how rollouts by the default guardrails end and how long they take."""
    candidates: dict[str, dict[str, float]] = {
        "equal": {},
        "better: clicks 0.33 for 0.30": {"clicks": 0.33},
        "clicks 0.25 for 0.30": {"clicks": 0.25},
        "junk: clicks 0.05": {"clicks": 0.05},
        "errors 5 %": {"errors": 0.05},
        "errors 50 %": {"errors": 0.5},
        "slow: 20 % for 2 %": {"latency": 0.2},
    }
    summary = {}
    for name, rates in candidates.items():
        ends = [whole_rollout(seed, rates, 300) for seed in range(runs)]
        summary[name] = {
            "promoted": sum(phase == "Promoted" for phase, _, _ in ends) / runs,
            "rolled back": sum(phase == "RolledBack" for phase, _, _ in ends) / runs,
            "median seconds": statistics.median(seconds for _, seconds, _ in ends),
        }
    return summary


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400, help="simulated sequences per row")
    runs = parser.parse_args().runs
    figures: dict[str, Any] = {"sequences per row": runs, "windows": WINDOWS, "alpha": ALPHA}
    for split in ((50, 950), (250, 750)):
        for odds_ratio in (1.0, 1.5, 2.0, 4.0):
            figures[f"split {split[0]}:{split[1]}, odds ratio {odds_ratio}"] = table(runs, split, odds_ratio)
    figures["split 250:750, odds ratio 4 from window 300 on"] = table(runs, (250, 750), 4.0, harm_from=300)
    figures["whole rollouts at 300 requests/s"] = whole_table(max(5, runs // 10))
    spent = whole_rollout(0, {"clicks": 0.33}, 300)[2]
    figures["milliseconds a look"] = {
        "median": round(statistics.median(spent), 2),
        "largest": round(max(spent), 2),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
