"""Readings of means and histograms that cannot be true never raise, never become evidence, and never pass."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judging import CANDIDATE, STABLE, Court, policy_of

from slipway.serving.rollout.core.observations import Observations, WindowHistogram, WindowMoments
from slipway.serving.rollout.core.serialization import from_json, to_json
from slipway.serving.rollout.core.types import Outcome, State

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
GUARDRAILS = (
    {"name": "watch", "kind": "mean", "value": "watch", "maximum": 10.0, "direction": "higher",
     "margin": {"absolute": 1.0}},
    {"name": "scores", "kind": "scores", "margin": {"absolute": 0.2}},
)  # fmt: skip
numbers = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 0.5, 1e300, 1e-300, 2.0]), st.floats(0, 1000)
)
spans = st.tuples(st.floats(-5, 5), st.one_of(st.floats(-5, 5), st.sampled_from([math.nan, math.inf])))
arms = st.sampled_from([CANDIDATE, STABLE, "other"])
moments = st.builds(
    lambda arm, span, n, total, squares: WindowMoments("watch", arm, *span, n, total, squares),
    arms, spans, numbers, numbers, numbers,
)  # fmt: skip
histograms = st.builds(
    lambda arm, span, counts: WindowHistogram("scores", arm, *span, tuple(counts)),
    arms, spans, st.lists(numbers, max_size=4),
)  # fmt: skip


def can_be(reading: WindowMoments | WindowHistogram) -> bool:
    """Returns whether some values have these sums, or whether these are counts; written apart from the core itself."""
    if not (math.isfinite(reading.start) and math.isfinite(reading.end) and reading.start < reading.end):
        return False
    if isinstance(reading, WindowHistogram):
        return len(reading.counts) >= 2 and all(math.isfinite(n) and n >= 0 and n == round(n) for n in reading.counts)
    n, total, squares = reading.n, reading.total, reading.squares
    return all(map(math.isfinite, (n, total, squares))) and 0 <= squares <= total <= n and total**2 <= n * squares


@SETTINGS
@given(st.lists(st.tuples(st.lists(moments, max_size=4), st.lists(histograms, max_size=4)), max_size=8))
def test_odd_readings_never_raise_and_the_state_survives_being_stored(
    looks: list[tuple[list[WindowMoments], list[WindowHistogram]]],
) -> None:
    court = Court(policy_of(*GUARDRAILS))
    for number, (some_moments, some_histograms) in enumerate(looks):
        before = court.state
        seen = Observations(float(number), moments=tuple(some_moments), histograms=tuple(some_histograms))
        court._take(seen)
        assert from_json(State, to_json(court.state)) == court.state
        if not any(map(can_be, some_moments)):
            assert court.state.means == before.means
        if not any(map(can_be, some_histograms)):
            assert court.state.drifts == before.drifts
        for name in ("watch", "scores"):
            verdict = court.verdict(name)
            shown = (verdict.value, verdict.lower, verdict.upper, verdict.candidate_rate)
            assert all(number is None or math.isfinite(number) for number in shown)
            assert math.isfinite(verdict.log_evidence_harm)
            assert verdict.outcome is not Outcome.PASS or verdict.samples > 0


@SETTINGS
@given(st.integers(2, 12), st.randoms(use_true_random=False))
def test_windows_that_come_twice_late_or_out_of_order_change_nothing(count: int, random: object) -> None:
    ordered, disturbed = Court(policy_of(*GUARDRAILS)), Court(policy_of(*GUARDRAILS))
    old: tuple[WindowMoments, ...] = ()
    for number in range(count):
        windows = tuple(
            WindowMoments("watch", arm, float(number), number + 1.0, 10.0, 3.0 + number % 3, 3.0)
            for arm in (CANDIDATE, STABLE)
        )
        mixed = [*windows, *windows, *old]
        random.shuffle(mixed)  # type: ignore[attr-defined]
        ordered._take(Observations(number + 1.0, moments=windows))
        disturbed._take(Observations(number + 1.0, moments=tuple(mixed)))
        old = windows
    assert ordered.state == disturbed.state
    assert ordered.state.means
