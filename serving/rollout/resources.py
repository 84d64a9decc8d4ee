"""What an answer of each version costs: processor time and memory of its processes, beside the answers they gave.

Shown, and judged by nothing: a version that costs twice as much may be worth it. Shares of what a process does without
requests are in it, so that figures of little traffic are high for all versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ResourceUse:
    """What the processes of one arm used in some time.

    Args:
        arm: Which one.
        answers: Requests answered.
        cpu_seconds: Processor time of all its processes.
        resident_bytes: Memory that they held at the end.
        processes: Their number.
    """

    arm: str
    answers: float
    cpu_seconds: float
    resident_bytes: float
    processes: int


def add(kept: Mapping[str, Mapping[str, float]], use: ResourceUse, seconds: float) -> dict[str, dict[str, float]]:
    """Returns the sums by arm, with what an arm used within some seconds added; an arm without processes adds nothing.

    Args:
        kept: What this function returned before.
        use: What was used.
        seconds: In which time.
    """
    result = {arm: dict(sums) for arm, sums in kept.items()}
    if use.processes == 0:
        return result
    before = result.get(use.arm, {})
    result[use.arm] = {
        "answers": before.get("answers", 0.0) + use.answers,
        "cpu_seconds": before.get("cpu_seconds", 0.0) + use.cpu_seconds,
        "mebibyte_seconds": before.get("mebibyte_seconds", 0.0) + use.resident_bytes / MEBIBYTE * seconds,
        "mebibytes": use.resident_bytes / MEBIBYTE / use.processes,
        "processes": float(use.processes),
    }
    return result


def per_answer(kept: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Returns by arm: answers, cpu_milliseconds and mebibyte_seconds of one answer (None without any), mebibytes of a
    process and processes now."""
    found = {}
    for arm, sums in kept.items():
        n = sums["answers"]
        found[arm] = {
            "answers": n,
            "cpu_milliseconds": 1000 * sums["cpu_seconds"] / n if n else None,
            "mebibyte_seconds": sums["mebibyte_seconds"] / n if n else None,
            "mebibytes": sums["mebibytes"],
            "processes": int(sums["processes"]),
        }
    return found
