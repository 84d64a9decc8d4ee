"""Readings into evidence: each window once, in order of its end, and only if its numbers can be true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from slipway.contracts.rollout import ASSIGNMENT, Guardrail, RolloutPolicy
from slipway.serving.rollout.core import drift, means, similarity
from slipway.serving.rollout.core.alpha import Levels
from slipway.serving.rollout.core.assignment import log_split_likelihoods, shift_grid
from slipway.serving.rollout.core.differences import BEYOND, MEMORY, guess_of, log_difference_ratios
from slipway.serving.rollout.core.evidence import start_any_time, update_any_time
from slipway.serving.rollout.core.hypergeometric import log_likelihoods
from slipway.serving.rollout.core.observations import Observations
from slipway.serving.rollout.core.odds_grid import odds_grid, tolerated_differences
from slipway.serving.rollout.core.proportions import log_limit_ratios, rates_beyond
from slipway.serving.rollout.core.types import Clock, Comparison, Counts, LimitEvidence, SplitEvidence, State
from slipway.serving.rollout.core.windows import Buckets, Events, Moments, W, Windows, buckets_of, events_of, moments_of

_ROOM = 3.0
"""How far above the threshold evidence may grow: room enough to be clear, little enough to come down again."""


def key_of(guardrail: str, arm: str) -> str:
    """Returns the key of a guardrail and an arm in the mappings of the state."""
    return f"{guardrail}/{arm}"


def ingest(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> State:
    """Returns the state with every new window of the observations taken in."""
    for guardrail in policy.guardrails:
        for part in guardrail.parts():
            state = _ingest_guardrail(state, part, observations, policy, now)
        if guardrail.objectives is not None:
            clock = _earliest([state.clocks[part.name] for part in guardrail.parts()])
            state = replace(state, clocks={**state.clocks, guardrail.name: clock})

    def take_splits(state: State, arms: Mapping[str, Events], start: float) -> State:
        for candidate in state.candidates:
            state = _take_split(state, candidate.arm, arms, start, policy)
        return state

    counts = (count for count in observations.counts if count.guardrail == ASSIGNMENT)
    return _take_windows(state, ASSIGNMENT, events_of(counts, now), now, take_splits)


def fresh_step(state: State) -> State:
    """Returns the state with the counts that belong to one step at zero; the evidence itself is kept."""
    comparisons = {key: replace(old, step=Counts()) for key, old in state.comparisons.items()}
    drifts = {
        key: replace(old, step_candidate=(0.0,) * len(old.candidate), step_stable=(0.0,) * len(old.stable))
        for key, old in state.drifts.items()
    }
    return replace(state, comparisons=comparisons, drifts=drifts, step_samples={}, splits={})


def limit_of(guardrail: Guardrail) -> float | None:
    """Returns the hard limit as a rate of bad events."""
    if guardrail.hard_limit is None:
        return None
    rate = guardrail.hard_limit.rate
    return 1 - rate if guardrail.higher_is_better else rate


def _ingest_guardrail(
    state: State, guardrail: Guardrail, observations: Observations, policy: RolloutPolicy, now: float
) -> State:
    name = guardrail.name

    def take_means(state: State, arms: Mapping[str, Moments], start: float) -> State:
        for candidate in state.candidates:
            state = _take_mean(state, guardrail, candidate.arm, arms, start, policy)
        return state

    def take_similarities(state: State, arms: Mapping[str, Moments], start: float) -> State:
        for candidate in state.candidates:
            state = _take_similarity(state, guardrail, candidate.arm, arms, start)
        return state

    def take_drifts(state: State, arms: Mapping[str, Buckets], start: float) -> State:
        for candidate in state.candidates:
            state = _take_drift(state, guardrail, candidate.arm, arms, start)
        return state

    def take_counts(state: State, arms: Mapping[str, Events], start: float) -> State:
        for candidate in state.candidates:
            state = _take_comparison(state, guardrail, candidate.arm, arms, start, policy)
        return _take_limits(state, guardrail, arms, policy)

    match guardrail.kind:
        case "mean" | "ndcg" | "auc":
            moments = (reading for reading in observations.moments if reading.guardrail == name)
            return _take_windows(state, name, moments_of(moments, now), now, take_means)
        case "agreement" | "rank_correlation" | "score_difference":
            moments = (reading for reading in observations.moments if reading.guardrail == name)
            return _take_windows(state, name, moments_of(moments, now), now, take_similarities)
        case "scores":
            histograms = (reading for reading in observations.histograms if reading.guardrail == name)
            return _take_windows(state, name, buckets_of(histograms, now), now, take_drifts)
        case _:
            counts = (reading for reading in observations.counts if reading.guardrail == name)
            return _take_windows(state, name, events_of(counts, now), now, take_counts)


def _take_windows(
    state: State,
    name: str,
    readings: tuple[Windows[W], str | None],
    now: float,
    take: Callable[[State, Mapping[str, W], float], State],
) -> State:
    """Returns the state with each window taken in that is new, comes after the last one, and is no warm-up."""
    clock = state.clocks.get(name, Clock())
    windows, error = readings
    if error is not None:
        clock = replace(clock, error=error)
    for (start, end), arms in windows:
        if end <= clock.last_end or start < clock.last_end - 1e-6:
            continue
        if state.traffic_since is None or start < state.traffic_since:
            continue  # Requests that warmed the candidate up are not evidence.
        state = take(state, arms, start)
        had_data = any(candidate.arm in arms and arms[candidate.arm].n > 0 for candidate in state.candidates)
        clock = replace(clock, last_end=end, last_data=now if had_data else clock.last_data, error=error)
    return replace(state, clocks={**state.clocks, name: clock})


def _earliest(clocks: list[Clock]) -> Clock:
    """Returns the clock of a guardrail with several parts: as old as its oldest part, wrong where one of them is."""
    moments = [clock.last_data for clock in clocks if clock.last_data is not None]
    return Clock(
        last_end=min(clock.last_end for clock in clocks),
        last_data=min(moments) if len(moments) == len(clocks) else None,
        error=next((clock.error for clock in clocks if clock.error is not None), None),
    )


def _in_step(state: State, start: float) -> bool:
    return state.step_since is not None and start >= state.step_since


def _with_samples(state: State, key: str, n: int, start: float) -> State:
    if not _in_step(state, start):
        return state
    return replace(state, step_samples={**state.step_samples, key: state.step_samples.get(key, 0) + n})


def _bad(guardrail: Guardrail, window: Events) -> tuple[int, int]:
    return (window.n - window.events if guardrail.higher_is_better else window.events), window.n


def _take_comparison(
    state: State, guardrail: Guardrail, candidate: str, arms: Mapping[str, Events], start: float, policy: RolloutPolicy
) -> State:
    if candidate not in arms:
        return state
    key = key_of(guardrail.name, candidate)
    bad, n = _bad(guardrail, arms[candidate])
    state = _with_samples(state, key, n, start)
    if state.stable is None or state.stable.arm not in arms:
        return state
    in_step = _in_step(state, start)
    stable_bad, stable_n = _bad(guardrail, arms[state.stable.arm])
    counts = Counts(bad, n, stable_bad, stable_n)
    grid = odds_grid(policy, guardrail)
    old = state.comparisons.get(key)
    if old is None or old.key != grid.key:
        sums, harm = np.zeros(len(grid.points)), start_any_time(grid.mixture_size)
        beyond = start_any_time(len(grid.differences) * len(BEYOND))
        old = Comparison(grid.key, tuple(sums.tolist()), tuple(harm.tolist()), tuple(beyond.tolist()))
    likelihoods = log_likelihoods(bad, n, stable_n, bad + stable_bad, grid.points)
    ratios = np.concatenate([likelihoods[grid.alternatives(harm)] - likelihoods[grid.at(harm)] for harm in grid.harms])
    # Written relative to an odds ratio of 1, so that the sums stay small.
    sums = np.array(old.log_sums) + likelihoods - likelihoods[grid.at(0.0)]
    new = replace(
        old,
        log_sums=tuple(sums.tolist()),
        log_harm=tuple(update_any_time(np.array(old.log_harm), ratios, old.windows, math.inf).tolist()),
        windows=old.windows + 1,
        total=old.total.plus(counts),
        step=old.step.plus(counts) if in_step else old.step,
        log_beyond=_beyond(old, counts, grid.differences),
        base=(MEMORY * old.base[0] + stable_bad, MEMORY * old.base[1] + stable_n),
    )
    return replace(state, comparisons={**state.comparisons, key: new})


def _beyond(old: Comparison, counts: Counts, differences: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the any-start mixtures against each tolerated difference of rates, after one more window."""
    if not differences:
        return ()
    seen = (counts.candidate_bad, counts.candidate_n, counts.stable_bad, counts.stable_n)
    ratios = [log_difference_ratios(*seen, guess_of(*old.base, margin), margin) for margin in differences]
    mixtures = update_any_time(np.array(old.log_beyond), np.concatenate(ratios), old.windows, math.inf)
    return tuple(mixtures.tolist())


def _take_mean(
    state: State, guardrail: Guardrail, candidate: str, arms: Mapping[str, Moments], start: float, policy: RolloutPolicy
) -> State:
    if candidate not in arms:
        return state
    key = key_of(guardrail.name, candidate)
    state = _with_samples(state, key, arms[candidate].n, start)
    if state.stable is None or state.stable.arm not in arms:
        return state
    harms = tolerated_differences(policy, guardrail)
    wanted = (guardrail.scale, *harms)
    old = state.means.get(key)
    if old is None or old.key != wanted:
        old = means.start(wanted, len(harms))
    own, stable = arms[candidate], arms[state.stable.arm]
    new = means.take(old, own, stable, harms, higher_is_better=guardrail.higher_is_better)
    return replace(state, means={**state.means, key: new})


def _take_similarity(
    state: State, guardrail: Guardrail, candidate: str, arms: Mapping[str, Moments], start: float
) -> State:
    if candidate not in arms:
        return state
    key, own = key_of(guardrail.name, candidate), arms[candidate]
    state = _with_samples(state, key, own.n, start)
    new = similarity.take(state.similarities.get(key), own, guardrail)
    return replace(state, similarities={**state.similarities, key: new})


def _take_drift(state: State, guardrail: Guardrail, candidate: str, arms: Mapping[str, Buckets], start: float) -> State:
    if candidate not in arms:
        return state
    key, own = key_of(guardrail.name, candidate), arms[candidate]
    state = _with_samples(state, key, own.n, start)
    if state.stable is None or state.stable.arm not in arms:
        return state
    stable = arms[state.stable.arm]
    if len(stable.counts) != len(own.counts):
        return state  # Two versions with other buckets cannot be compared; judged as long as both have the same.
    old = state.drifts.get(key)
    if old is None or old.key != (float(len(own.counts)),):
        old = drift.start(len(own.counts))
    new = drift.take(old, own, stable, in_step=_in_step(state, start))
    return replace(state, drifts={**state.drifts, key: new})


def _take_limits(state: State, guardrail: Guardrail, arms: Mapping[str, Events], policy: RolloutPolicy) -> State:
    limit = limit_of(guardrail)
    if limit is None:
        return state
    limits = dict(state.limits)
    rates = rates_beyond(limit)
    ceiling = Levels.of(policy, len(state.candidates)).log_harm_needed + _ROOM
    for arm, window in arms.items():
        bad, n = _bad(guardrail, window)
        old = limits.get(key_of(guardrail.name, arm))
        if old is None or old.key != (limit,):
            old = LimitEvidence((limit,), tuple(start_any_time(len(rates)).tolist()))
        ratios = log_limit_ratios(bad, n, limit, rates)
        mixture = update_any_time(np.array(old.log_mixture), ratios, old.windows, ceiling)
        limits[key_of(guardrail.name, arm)] = replace(
            old, log_mixture=tuple(mixture.tolist()), windows=old.windows + 1, n=old.n + n
        )
    return replace(state, limits=limits)


def _take_split(state: State, candidate: str, arms: Mapping[str, Events], start: float, policy: RolloutPolicy) -> State:
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
    begins = old is None or old.key != (policy.ratio_tolerance,)
    if old is None or begins:
        old = SplitEvidence(tuple(np.zeros(len(shifts)).tolist()), (policy.ratio_tolerance,))
    if begins and policy.assignment == "user":
        # Users are counted anew from the candidate's first answer on. Until then, those whom stable met first are
        # counted and none of the candidate's: the evidence begins behind the window in which both are counted.
        return replace(state, splits={**state.splits, candidate: old}) if arms[candidate].n else state
    candidate_n, total_n = arms[candidate].n, arms[candidate].n + arms[state.stable.arm].n
    sums = np.array(old.log_sums) + log_split_likelihoods(candidate_n, total_n, share, shifts)
    sums = sums - sums[int(np.searchsorted(shifts, 0.0))]
    new = replace(
        old,
        log_sums=tuple(sums.tolist()),
        candidate_n=old.candidate_n + candidate_n,
        total_n=old.total_n + total_n,
    )
    return replace(state, splits={**state.splits, candidate: new})
