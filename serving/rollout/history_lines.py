"""What the history keeps of a look besides its verdicts: the readings behind them, and where the rollout stood.

Looks at which nothing changed are thinned out. Their readings are not lost: they are added up until the next look that
is kept, so that the readings of all kept looks together are exactly the counts that the verdicts rest on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.serving.rollout.core.observations import Observations, WindowCount, WindowHistogram, WindowMoments
from slipway.serving.rollout.core.types import State

Reading = dict[str, Any]
"""guardrail, arm, start, end (Unix seconds), windows; and events, n (counts), n, total, squares (moments) or counts."""


def standing(state: State) -> dict[str, Any]:
    """Returns where a rollout stands, as each line of its history says it."""
    return {"phase": state.phase.value, "step": state.step, "weights": dict(state.weights)}


def add_readings(kept: Sequence[Mapping[str, Any]], observations: Observations, state: State) -> list[Reading]:
    """Returns the readings since the last kept look, with those of this look added.

    Args:
        kept: Readings since the last look that was kept.
        observations: What was seen at this look.
        state: The state after it; windows before its first traffic are warm-up and no evidence.
    """
    merged: dict[tuple[str, str, str], Reading] = {
        (reading["guardrail"], reading["arm"], _kind(reading)): dict(reading) for reading in kept
    }
    windows: tuple[WindowCount | WindowMoments | WindowHistogram, ...] = (
        *observations.counts,
        *observations.moments,
        *observations.histograms,
    )
    for window in windows:
        if state.traffic_since is None or window.start < state.traffic_since:
            continue
        reading = _reading(window)
        key = (window.guardrail, window.arm, _kind(reading))
        merged[key] = _plus(merged[key], reading) if key in merged else reading
    return list(merged.values())


def _reading(window: WindowCount | WindowMoments | WindowHistogram) -> Reading:
    reading: Reading = {
        "guardrail": window.guardrail,
        "arm": window.arm,
        "start": window.start,
        "end": window.end,
        "windows": 1,
    }
    match window:
        case WindowCount():
            return reading | {"events": window.events, "n": window.n}
        case WindowMoments():
            return reading | {"n": window.n, "total": window.total, "squares": window.squares}
        case WindowHistogram():
            return reading | {"counts": list(window.counts)}


def _kind(reading: Mapping[str, Any]) -> str:
    return next(name for name in ("events", "squares", "counts") if name in reading)


def _plus(one: Reading, other: Reading) -> Reading:
    result = one | {"start": min(one["start"], other["start"]), "end": max(one["end"], other["end"])}
    for name in ("windows", "events", "n", "total", "squares"):
        if name in one:
            result[name] = one[name] + other[name]
    if "counts" in one:
        # Other buckets cannot be added up: the newer ones count.
        same = len(one["counts"]) == len(other["counts"])
        pairs = zip(one["counts"], other["counts"], strict=False)
        result["counts"] = [sum(pair) for pair in pairs] if same else other["counts"]
    return result
