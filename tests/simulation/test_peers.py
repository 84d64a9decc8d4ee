"""Models of other tools do what their documentation and source say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.simulation.endings import Ending, Method
from slipway.serving.rollout.simulation.peers.argo_rollouts import ArgoAnalysis, ArgoRollouts
from slipway.serving.rollout.simulation.peers.checks import Check, documented_checks
from slipway.serving.rollout.simulation.peers.flagger import Flagger, FlaggerAnalysis
from slipway.serving.rollout.simulation.peers.z_test import ZTest
from slipway.serving.rollout.simulation.windows import ArmCounts, Windows

ROW = np.array([0])
FLAGGER = FlaggerAnalysis((Check("errors", 0.01),))
ARGO = ArgoAnalysis((Check("errors", 0.05),))


def shown(end: float, errors: int, n: int = 1000, *, readable: bool = True, stable_errors: int = 0) -> Windows:
    """Returns one window of one rollout."""
    counts = {"errors": ArmCounts(np.array([errors]), np.array([n]))}
    stable = {"errors": ArmCounts(np.array([stable_errors]), np.array([n]))}
    return Windows(
        np.array([end - 15]), end, np.array([readable]), counts, stable, (np.array([n]), np.array([n])),
        np.array([0]), np.array([0.0]),
    )  # fmt: skip


def until_the_end(
    method: Method, errors: list[int], n: int = 1000, step: float = 15
) -> tuple[Ending, float, list[int]]:
    """Shows windows, the last number of errors again and again, and returns ending, second and weights."""
    weights, now = [], 0.0
    while method.endings.ending[0] == Ending.RUNNING and now < 7200:
        weights.append(int(method.weights(ROW)[0]))
        now += step
        method.look(ROW, shown(now, errors[min(len(weights), len(errors)) - 1], n))
    return Ending(int(method.endings.ending[0])), now, weights


def test_flagger_promotes_after_interval_times_maximum_over_step_weight() -> None:
    ending, now, weights = until_the_end(Flagger(FLAGGER, 1), [0])
    assert (ending, now) == (Ending.PROMOTED, 600)
    assert weights[::4] == list(range(5, 51, 5))


def test_flagger_goes_back_at_the_check_after_the_last_failed_one_and_keeps_the_weight() -> None:
    ending, now, weights = until_the_end(Flagger(FLAGGER, 1), [50])
    assert (ending, now) == (Ending.HARM, 660)
    assert set(weights) == {5}


def test_flagger_counts_failed_checks_without_forgiving_and_no_values_as_failed() -> None:
    flagger = Flagger(replace(FLAGGER, threshold=2), 1)
    for minute, errors in enumerate((50, 0, 50, 0), start=1):
        flagger.look(ROW, shown(60.0 * minute, errors))
    assert flagger.endings.ending[0] == Ending.HARM
    silent = Flagger(replace(FLAGGER, threshold=1), 1)
    silent.look(ROW, shown(60, 0, n=0))
    silent.look(ROW, shown(120, 0))
    assert silent.endings.ending[0] == Ending.HARM


def test_flagger_takes_a_rate_over_the_whole_interval_at_its_limit_for_good() -> None:
    flagger = Flagger(FLAGGER, 1)
    for window, errors in enumerate((40, 0, 0, 0), start=1):
        flagger.look(ROW, shown(15.0 * window, errors))
    assert int(flagger.weights(ROW)[0]) == 10


def test_argo_rollouts_completes_its_steps_and_measures_the_last_window_only() -> None:
    ending, now, weights = until_the_end(ArgoRollouts(ARGO, 1), [0])
    assert (ending, now) == (Ending.PROMOTED, 2400)
    assert sorted(set(weights)) == [20, 40, 60, 80]
    between = [600 if second % 300 else 0 for second in range(15, 2415, 15)]
    assert until_the_end(ArgoRollouts(ARGO, 1), between)[0] is Ending.PROMOTED


def test_argo_rollouts_aborts_at_the_measurement_beyond_the_failure_limit() -> None:
    ending, now, _ = until_the_end(ArgoRollouts(ARGO, 1), [60])
    # From 40 % on: at 600, 900, 1,200 and 1,500 seconds; the fourth is more than three.
    assert (ending, now) == (Ending.HARM, 1500)
    assert until_the_end(ArgoRollouts(replace(ARGO, failure_limit=4), 1), [60])[1] == 1800


def test_argo_rollouts_takes_no_requests_for_failed() -> None:
    assert until_the_end(ArgoRollouts(ARGO, 1), [0], n=0)[0] is Ending.HARM


def test_argo_rollouts_pauses_where_a_measurement_is_neither_success_nor_failure() -> None:
    both = replace(ARGO, failure_conditions=(0.5,))
    assert until_the_end(ArgoRollouts(both, 1), [60])[:2] == (Ending.HELD, 600)
    assert until_the_end(ArgoRollouts(both, 1), [0])[0] is Ending.PROMOTED
    assert until_the_end(ArgoRollouts(both, 1), [600])[0] is Ending.HARM


def test_documented_limits_are_those_of_errors_and_latency() -> None:
    checks = documented_checks(RolloutPolicy.model_validate({"preset": "standard"}))
    assert [(check.guardrail, check.limit, check.part) for check in checks] == [
        ("errors", 0.01, 1.0),
        ("latency", 0.01, 0.1),
    ]


def test_a_z_test_goes_back_at_the_look_at_which_the_pooled_score_is_beyond_the_critical_value() -> None:
    policy = RolloutPolicy.model_validate(
        {
            "steps": [{"weight": 50, "minimum_dwell": "30s"}, {"weight": 100, "minimum_dwell": "15s"}],
            "guardrails": [{"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5}}],
        }
    )
    # 20 against 10 of 1,000 each: a pooled z of 1.84; 18 against 10 only 1.52.
    for errors, ending in ((20, Ending.HARM), (18, Ending.RUNNING)):
        method = ZTest(policy, 1)
        method.look(ROW, shown(15, errors, stable_errors=10))
        assert method.endings.ending[0] == ending
    method = ZTest(policy, 1, critical=2.5)
    for window in range(1, 5):
        method.look(ROW, shown(15.0 * window, 10, stable_errors=10))
    assert (Ending(int(method.endings.ending[0])), float(method.endings.at[0])) == (Ending.PROMOTED, 45.0)
