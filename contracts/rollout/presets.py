"""Named policies: durations are maxima that a clear verdict shortens; a field given beside them replaces theirs."""

from __future__ import annotations

from typing import Any, Literal

PresetName = Literal["careful", "standard", "blueGreen", "abTest", "shadow"]


def _canary(*weights: int) -> list[dict[str, Any]]:
    below = [{"weight": weight, "minimum_dwell": "5m", "deadline": "6h"} for weight in weights]
    return [*below, {"weight": 100, "minimum_dwell": "5m", "minimum_samples": 0}]


PRESETS: dict[str, dict[str, Any]] = {
    "careful": {
        "steps": _canary(5, 25, 50),
        "inconclusive": "rollback",
        "deadline": "1d",
        "watch": {"duration": "1h"},
    },
    "standard": {"steps": _canary(10, 25, 50), "inconclusive": "hold", "deadline": "1d"},
    "blueGreen": {
        "strategy": "blueGreen",
        "steps": [{"weight": 100, "minimum_dwell": "1m", "minimum_samples": 0}],
        "watch": {"duration": "24h"},
    },
    "abTest": {
        "strategy": "abTest",
        "assignment": "user",
        "steps": [
            {"weight": 50, "minimum_dwell": "1d", "deadline": "7d", "minimum_samples": 10_000},
            {"weight": 100, "minimum_dwell": "1m", "minimum_samples": 0},
        ],
        "guardrails": [
            {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.01},
             "hard_limit": {"rate": 0.2}, "requires": "noHarm"},
            {"name": "latency", "kind": "latency", "objective": 0.1, "margin": {"odds_ratio": 1.5, "absolute": 0.02},
             "requires": "noHarm"},
            {"name": "clicks", "kind": "clicks", "unit": "user", "margin": {"odds_ratio": 0.98},
             "minimum_lift": 1.02, "requires": "better"},
        ],
        "inconclusive": "rollback",
        "deadline": "8d",
    },
    "shadow": {
        "strategy": "shadow",
        "steps": [{"weight": 0, "mirror": 100, "minimum_dwell": "10m", "deadline": "3d", "minimum_samples": 1000}],
        "guardrails": [
            {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.01}},
            {"name": "latency", "kind": "latency", "objective": 0.1, "margin": {"odds_ratio": 1.5, "absolute": 0.02}},
        ],
        "inconclusive": "rollback",
        "deadline": "4d",
    },
}  # fmt: skip
