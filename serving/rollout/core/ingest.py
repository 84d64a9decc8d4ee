"""Readings into evidence: each window once, in order of its end, and only if its numbers can be true."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, Guardrail, RolloutPolicy
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.assignment import log_split_likelihoods, shift_grid
from slipway.serving.rollout.core.evidence import log_odds_grid, start_any_time, update_any_time
from slipway.serving.rollout.core.hypergeometric import Floats, log_likelihoods
from slipway.serving.rollout.core.proportions import log_limit_ratios, rates_beyond
from slipway.serving.rollout.core.types import (
    Clock,
    Comparison,
    Counts,
    LimitEvidence,
    Observations,
    SplitEvidence,
    State,
    WindowCount,
)

EPOCH_WINDOWS = 20
_LARGEST_WINDOW = 10_000_000
_CLOCK_SKEW = 60.0
_ROOM = 3.0
"""How far above the threshold evidence may grow: room enough to be clear, little enough to come down again."""


def key_of(guardrail: str, arm: str) -> str:
    """Returns the key of a guardrail and an arm in the mappings of the state."""
    return f"{guardrail}/{arm}"


def ingest(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Returns the state with every new window of the observations taken in."""
    by_guardrail: dict[str, list[WindowCount]] = {}
    for count in observations.counts:
        by_guardrail.setdefault(count.guardrail, []).append(count)
    for guardrail in policy.guardrails:
        state = _ingest_guardrail(state, guardrail, by_guardrail.get(guardrail.name, []), policy, now)
    return _ingest_guardrail(state, None, by_guardrail.get(ASSIGNMENT, []), policy, now)


def fresh_step(state: State) -> State:
    """Returns the state with the counts that belong to one step at zero; the evidence itself is kept."""
    comparisons = {
        key: replace(old, step=Counts(), recent=Counts(), epoch=old.epoch + 1, epoch_windows=0)
        for key, old in state.comparisons.items()
    }
    return replace(state, comparisons=comparisons, step_samples={}, splits={})


def log_margins(guardrail: Guardrail) -> tuple[float | None, float | None]:
    """Returns (margin, where harm begins) as log odds ratios of bad events, None where only the rates are compared."""
    ratio = guardrail.margin.odds_ratio
    if ratio is None:
        return None, None
    return abs(math.log(ratio)), abs(math.log(guardrail.harm_from or ratio))


def grid_of(guardrail: Guardrail) -> tuple[Floats, Floats]:
    """Returns the odds-ratio grid of a guardrail, and the part of it that lies beyond where harm begins."""
    margin, harm = log_margins(guardrail)
    grid = log_odds_grid(*(value for value in (margin, harm) if value is not None))
    return grid, grid[grid > (harm or 0.0)]


def limit_of(guardrail: Guardrail) -> float | None:
    """Returns the hard limit as a rate of bad events."""
    if guardrail.hard_limit is None:
        return None
    rate = guardrail.hard_limit.rate
    return 1 - rate if guardrail.higher_is_better else rate


def _ingest_guardrail(
    state: State, guardrail: Guardrail | None, counts: Iterable[WindowCount], policy: RolloutPolicy, now: float
) -> State:
    name = ASSIGNMENT if guardrail is None else guardrail.name
    clock = state.clocks.get(name, Clock())
    windows, error = _windows(counts, now)
    if error is not None:
        clock = replace(clock, error=error)
    for (start, end), arms in windows:
        if end <= clock.last_end or start < clock.last_end - 1e-6:
            continue
        if state.traffic_since is None or start < state.traffic_since:
            continue  # Requests that warmed the candidate up are not evidence.
        for candidate in state.candidates:
            if guardrail is None:
                state = _take_split(state, candidate.arm, arms, start, policy)
            else:
                state = _take_comparison(state, guardrail, candidate.arm, arms, start)
        if guardrail is not None:
            state = _take_limits(state, guardrail, arms, policy)
        had_data = any(arms.get(candidate.arm, (0, 0))[1] > 0 for candidate in state.candidates)
        clock = replace(clock, last_end=end, last_data=now if had_data else clock.last_data, error=error)
    return replace(state, clocks={**state.clocks, name: clock})


def _windows(
    counts: Iterable[WindowCount], now: float
) -> tuple[list[tuple[tuple[float, float], dict[str, tuple[int, int]]]], str | None]:
    """Returns ((start, end), arm -> (events, n)) by end, and what was wrong with readings that were left out."""
    found: dict[tuple[float, float], dict[str, tuple[int, int]]] = {}
    broken: set[tuple[float, float]] = set()
    error = None
    for count in counts:
        span = (count.start, count.end)
        problem = _problem(count, now)
        if problem is None:
            pair = (round(count.events), round(count.n))
            if found.setdefault(span, {}).setdefault(count.arm, pair) != pair:
                problem = "two readings of one window differ"
        if problem is not None:
            error = f"{count.arm}: {problem}"
            broken.add(span)
    usable = [(span, arms) for span, arms in found.items() if span not in broken]
    return sorted(usable, key=lambda item: (item[0][1], item[0][0])), error


def _problem(count: WindowCount, now: float) -> str | None:
    numbers = (count.start, count.end, count.events, count.n)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        return f"a reading is not a number (events {count.events}, n {count.n})"
    if count.end <= count.start:
        return "a window ends before it begins"
    if count.end > now + _CLOCK_SKEW:
        return "a window ends in the future"
    if count.events < 0 or count.n < 0:
        return f"a count is negative (events {count.events:g}, n {count.n:g})"
    if count.events > count.n:
        return f"more events than requests ({count.events:g} of {count.n:g})"
    if abs(count.events - round(count.events)) > 1e-6 or abs(count.n - round(count.n)) > 1e-6:
        return f"a count is not whole ({count.events:g} of {count.n:g}); counts must be exact differences of counters"
    if count.n > _LARGEST_WINDOW:
        return f"a window holds {count.n:.3g} requests, more than {_LARGEST_WINDOW:,}; read more often"
    return None


def _bad(guardrail: Guardrail, pair: tuple[int, int]) -> tuple[int, int]:
    events, n = pair
    return (n - events if guardrail.higher_is_better else events), n


def _take_comparison(
    state: State, guardrail: Guardrail, candidate: str, arms: Mapping[str, tuple[int, int]], start: float
) -> State:
    if candidate not in arms:
        return state
    key = key_of(guardrail.name, candidate)
    bad, n = _bad(guardrail, arms[candidate])
    in_step = state.step_since is not None and start >= state.step_since
    if in_step:
        state = replace(state, step_samples={**state.step_samples, key: state.step_samples.get(key, 0) + n})
    if state.stable is None or state.stable.arm not in arms:
        return state
    stable_bad, stable_n = _bad(guardrail, arms[state.stable.arm])
    counts = Counts(bad, n, stable_bad, stable_n)
    grid, beyond = grid_of(guardrail)
    margins = (*(-1.0 if value is None else value for value in log_margins(guardrail)), float(len(grid)))
    old = state.comparisons.get(key)
    if old is None or old.key != margins:
        old = Comparison(margins, tuple(np.zeros(len(grid)).tolist()), tuple(start_any_time(len(beyond)).tolist()))
    likelihoods = log_likelihoods(bad, n, stable_n, bad + stable_bad, grid)
    harm_null = likelihoods[int(np.searchsorted(grid, log_margins(guardrail)[1] or 0.0))]
    ratios = likelihoods[len(grid) - len(beyond) :] - harm_null
    # Written relative to an odds ratio of 1, so that the sums stay small.
    sums = np.array(old.log_sums) + likelihoods - likelihoods[int(np.searchsorted(grid, 0.0))]
    new_epoch = old.epoch_windows >= EPOCH_WINDOWS
    new = replace(
        old,
        log_sums=tuple(sums.tolist()),
        log_harm=tuple(update_any_time(np.array(old.log_harm), ratios, old.windows, math.inf).tolist()),
        windows=old.windows + 1,
        total=old.total.plus(counts),
        step=old.step.plus(counts) if in_step else old.step,
        recent=(Counts() if new_epoch else old.recent).plus(counts) if in_step else old.recent,
        epoch=old.epoch + 1 if new_epoch and in_step else old.epoch,
        epoch_windows=(1 if new_epoch else old.epoch_windows + 1) if in_step else old.epoch_windows,
    )
    return replace(state, comparisons={**state.comparisons, key: new})


def _take_limits(
    state: State, guardrail: Guardrail, arms: Mapping[str, tuple[int, int]], policy: RolloutPolicy
) -> State:
    limit = limit_of(guardrail)
    if limit is None:
        return state
    limits = dict(state.limits)
    rates = rates_beyond(limit)
    ceiling = Levels.of(policy, len(state.candidates)).log_harm_needed + _ROOM
    for arm, pair in arms.items():
        bad, n = _bad(guardrail, pair)
        old = limits.get(key_of(guardrail.name, arm))
        if old is None or old.key != (limit,):
            old = LimitEvidence((limit,), tuple(start_any_time(len(rates)).tolist()))
        ratios = log_limit_ratios(bad, n, limit, rates)
        mixture = update_any_time(np.array(old.log_mixture), ratios, old.windows, ceiling)
        limits[key_of(guardrail.name, arm)] = replace(
            old, log_mixture=tuple(mixture.tolist()), windows=old.windows + 1, n=old.n + n
        )
    return replace(state, limits=limits)


def _take_split(
    state: State, candidate: str, arms: Mapping[str, tuple[int, int]], start: float, policy: RolloutPolicy
) -> State:
    if state.stable is None or state.stable.arm not in arms or candidate not in arms:
        return state
    weight, stable_weight = state.weights.get(candidate, 0), state.weights.get(state.stable.arm, 0)
    if not weight or not stable_weight:
        return state
    share = 100 * weight / (weight + stable_weight)
    if state.step_since is None or start < state.step_since:
        return state  # The weights may have changed within this window.
    shifts = shift_grid(policy.ratio_tolerance)
    old = state.splits.get(candidate)
    if old is None or old.key != (policy.ratio_tolerance,):
        old = SplitEvidence(tuple(np.zeros(len(shifts)).tolist()), (policy.ratio_tolerance,))
    candidate_n, total_n = arms[candidate][1], arms[candidate][1] + arms[state.stable.arm][1]
    sums = np.array(old.log_sums) + log_split_likelihoods(candidate_n, total_n, share, shifts)
    sums = sums - sums[int(np.searchsorted(shifts, 0.0))]
    new = replace(
        old,
        log_sums=tuple(sums.tolist()),
        candidate_n=old.candidate_n + candidate_n,
        total_n=old.total_n + total_n,
    )
    return replace(state, splits={**state.splits, candidate: new})
