"""What the decisions of a rollout cost: looks a second, one look with 20 guardrails, and windows in bulk.

Measures `decide()` with the state written and read back as a controller does it, with the guardrails of the default
policy and with 20 of them, early in a rollout and after thousands of windows; the rate at which the statistics take
windows one at a time and many at once; and rollouts a second of the simulator's kernel. How often decisions are right
is what `slipway simulate` shows; see docs/simulation.md. Times are the processor's, so that other work on the machine
counts little. Prints one JSON object with machine and versions.
Run: python benchmarks/decisions.py [--looks 400]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.evidence import log_odds_grid
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import State
from slipway.serving.rollout.simulation.effects import NO_EFFECT
from slipway.serving.rollout.simulation.endings import Ending
from slipway.serving.rollout.simulation.kernel import Kernel
from slipway.serving.rollout.simulation.replay import SimulatedPlane
from slipway.serving.rollout.simulation.rollouts import run
from slipway.serving.rollout.simulation.traffic import TrafficModel, event_rates
from slipway.serving.rollout.simulation.windows import Traffic

GUARDRAILS = 20
STEPS = [{"weight": 50, "minimum_dwell": "30d"}, {"weight": 100, "minimum_dwell": "1m"}]


def policy_of(guardrails: int) -> RolloutPolicy:
    """Returns a policy whose first step lasts longer than any measurement, with that many guardrails."""
    kinds: list[dict[str, Any]] = [
        {"kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.01}, "hard_limit": {"rate": 0.2}},
        {"kind": "latency", "objective": 0.1, "margin": {"odds_ratio": 1.5, "absolute": 0.02}},
        {"kind": "fallbacks", "margin": {"odds_ratio": 1.5, "absolute": 0.02}},
        {"kind": "clicks", "margin": {"odds_ratio": 0.9}},
    ]
    chosen = [{**kinds[index % len(kinds)], "name": f"guardrail-{index}"} for index in range(guardrails)]
    return RolloutPolicy.model_validate({"steps": STEPS, "guardrails": chosen, "deadline": "60d"})


def looks(guardrails: int, count: int, requests_per_second: float = 100.0) -> dict[str, float]:
    """Returns milliseconds a look of `decide()`, and of writing and reading the state, over `count` looks."""
    policy = policy_of(guardrails)
    plane = SimulatedPlane(policy)
    traffic = Traffic(
        TrafficModel(requests_per_second, 15.0, event_rates(policy, {})), NO_EFFECT, 1, np.random.SeedSequence(1)
    )
    rows, spent, stored = np.array([0]), [], []
    for _ in range(count):
        windows = traffic.draw(rows, np.array([plane.weight]))
        before = time.process_time()
        plane.state = from_json(State, to_json(plane.state))
        between = time.process_time()
        if plane.look(windows) is not Ending.RUNNING:
            raise SystemExit(f"the rollout ended: {plane.state.reason}")
        stored.append(1000 * (between - before))
        spent.append(1000 * (time.process_time() - between))
    late = spent[count // 2 :]
    return {
        "decide, median": round(statistics.median(spent), 3),
        "decide, 99 %": round(float(np.quantile(spent, 0.99)), 3),
        "decide, median of the later half": round(statistics.median(late), 3),
        "decisions per second": round(1000 / statistics.median(spent)),
        "state written and read, median": round(statistics.median(stored), 3),
        "state in kB": round(len(json.dumps(to_json(plane.state))) / 1000, 1),
    }


def windows_per_second(requests: int, rate: float, together: int) -> float:
    """Returns likelihoods of windows a second, on the grid of odds ratios, `together` at a time."""
    rng, grid = np.random.default_rng(1), log_odds_grid()
    x, y = rng.binomial(requests // 2, rate, together), rng.binomial(requests // 2, rate, together)
    n = np.full(together, requests // 2)
    return round(together / best_of(lambda: log_likelihoods(x, n, n, x + y, grid)))


def kernel_rollouts(runs: int) -> dict[str, float]:
    """Returns rollouts a second of the kernel, by the standard preset at 100 requests/s, and looks a second."""
    policy = RolloutPolicy.model_validate({"preset": "standard"})
    model = TrafficModel(100.0, 15.0, event_rates(policy, {}))
    started = time.process_time()
    rollouts = run(Kernel(policy, runs), Traffic(model, NO_EFFECT, runs, np.random.SeedSequence(1)), policy.deadline)
    seconds = time.process_time() - started
    return {"rollouts per second": round(runs / seconds, 1), "looks per second": round(rollouts.looks.sum() / seconds)}


def best_of(call: Callable[[], object], times: int = 5) -> float:
    """Returns the fewest seconds that a call took."""
    spent = []
    for _ in range(times):
        started = time.process_time()
        call()
        spent.append(time.process_time() - started)
    return min(spent)


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=400, help="looks of decide() per row")
    count = parser.parse_args().looks
    figures = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "scipy")}},
        "looks": count,
        "milliseconds a look, 4 guardrails": looks(4, count),
        f"milliseconds a look, {GUARDRAILS} guardrails": looks(GUARDRAILS, count),
        "likelihoods of windows per second": {
            "1,000 requests, 1 % events, one at a time": windows_per_second(1000, 0.01, 1),
            "1,000 requests, 1 % events, 1,000 together": windows_per_second(1000, 0.01, 1000),
            "15,000 requests, 15 % events, one at a time": windows_per_second(15000, 0.15, 1),
            "15,000 requests, 15 % events, 1,000 together": windows_per_second(15000, 0.15, 1000),
        },
        "kernel, standard preset": kernel_rollouts(500),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
