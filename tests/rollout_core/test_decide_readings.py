"""What readings do to a rollout: lack of them, impossible ones, late ones, and what a step asks of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rollout_world import CANDIDATE, STABLE, progressing

from slipway.contracts.rollout import ASSIGNMENT
from slipway.serving.rollout.core.observations import WindowCount
from slipway.serving.rollout.core.types import Outcome, Phase

FEW = [{"weight": 50, "minimum_dwell": "1h"}, {"weight": 100, "minimum_samples": 0}]


def test_no_readings_hold_and_then_go_back(make_world):
    world = make_world()
    world.until(progressing(1))
    world.readings = False
    for _ in range(18):
        assert world.look(metrics_error="connection refused").phase is Phase.PROGRESSING
    assert all(v.outcome is Outcome.ERROR for v in world.state.verdicts if v.guardrail != ASSIGNMENT)
    state = world.to_end(20)
    assert state.phase is Phase.ROLLED_BACK
    assert "No usable reading" in state.reason


def test_one_guardrail_without_readings_is_no_data_though_the_others_have_some(make_world):
    world = make_world()
    world.until(progressing(0))
    for _ in range(30):
        counts = tuple(count for count in world.windows() if count.guardrail != "clicks")
        world.readings = False
        world.look(counts=counts)
        world.readings = True
    assert world.state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    assert "clicks" in world.state.reason


@pytest.mark.parametrize("bad", [(math.nan, 5), (-1, 5), (6, 5), (0.5, 5), (1, math.inf)])
def test_a_reading_that_cannot_be_true_is_an_error_and_no_evidence(make_world, bad):
    world = make_world()
    world.until(progressing(0))
    before = world.state.comparisons
    counts = tuple(replace(count, events=bad[0], n=bad[1]) for count in world.windows())
    world.readings = False
    state = world.look(counts=counts)
    assert state.comparisons == before
    assert {v.outcome for v in state.verdicts if v.guardrail != ASSIGNMENT} == {Outcome.ERROR}
    world.readings = True
    assert Outcome.ERROR not in {v.outcome for v in world.look().verdicts}


@pytest.mark.parametrize(
    ("choice", "phase"),
    [("hold", Phase.PROGRESSING), ("rollback", Phase.ROLLING_BACK), ("proceed", Phase.PROGRESSING)],
)
def test_a_step_that_proves_nothing_by_its_deadline_follows_the_policy(make_world, choice, phase):
    steps = [{"weight": 50, "minimum_dwell": "2s", "deadline": "5s", "minimum_samples": 50}, {"weight": 100}]
    guardrails = [{"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.99}}]
    world = make_world({"inconclusive": choice, "steps": steps, "guardrails": guardrails}, requests=200)
    world.until(progressing(0))
    for _ in range(7):
        world.look()
    assert world.state.phase in (phase, Phase.ROLLED_BACK if choice == "rollback" else phase)
    assert world.state.step == (1 if choice == "proceed" else 0)
    assert bool(world.state.alarm) == (choice == "hold")


def test_proceeding_at_the_deadline_still_needs_the_minimum_of_samples(make_world):
    steps = [{"weight": 50, "minimum_dwell": "2s", "deadline": "5s", "minimum_samples": 10_000}, {"weight": 100}]
    world = make_world({"inconclusive": "proceed", "steps": steps}, requests=20)
    world.until(progressing(0))
    for _ in range(30):
        assert world.look().step == 0


def test_a_dry_run_guardrail_is_judged_and_decides_nothing(make_world):
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}, "dry_run": True}
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.02}}
    world = make_world({"guardrails": [errors, clicks]}, candidate_rates={"clicks": 0.05})
    assert world.to_end().phase is Phase.PROMOTED
    verdict = next(v for v in world.state.verdicts if v.guardrail == "clicks")
    assert (verdict.outcome, verdict.dry_run) == (Outcome.FAIL, True)


def test_traffic_that_is_not_split_as_set_stops_the_rollout_until_it_is_mended(make_world):
    world = make_world()
    world.until(progressing(0))
    for _ in range(30):
        world.weights = {STABLE: 80, CANDIDATE: 20}
        counts = world.windows()
        world.weights = {STABLE: 95, CANDIDATE: 5}
        world.readings = False
        world.look(counts=counts)
        world.readings = True
    assert world.state.step == 0
    assert "not split as set" in world.state.reason
    assert world.to_end(20).phase is Phase.ROLLED_BACK


def test_a_late_fault_is_found_within_seconds_after_a_long_good_time(make_world):
    steps = [{"weight": 50, "minimum_dwell": "1h"}, {"weight": 100}]
    world = make_world({"steps": steps})
    for _ in range(300):
        world.look()
    assert world.state.phase is Phase.PROGRESSING
    world.candidate_rates = {"errors": 0.05}
    began = world.now
    world.until(lambda state: state.phase is Phase.ROLLING_BACK, 60)
    assert world.now - began <= 15


def test_worse_by_the_odds_and_inside_the_absolute_margin_is_tolerated(make_world):
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.2, "absolute": 0.02}}
    world = make_world({"guardrails": [errors]}, candidate_rates={"errors": 0.006}, stable_rates={"errors": 0.001})
    world.requests = 2000
    assert world.to_end().phase is Phase.PROMOTED
    alone = {**errors, "margin": {"odds_ratio": 1.2}}
    world = make_world({"guardrails": [alone]}, candidate_rates={"errors": 0.006}, stable_rates={"errors": 0.001})
    world.requests = 2000
    assert world.to_end().phase is Phase.ROLLED_BACK


def test_requests_before_the_first_weight_was_in_force_are_warm_up_and_no_evidence(make_world):
    world = make_world()
    world.until(lambda state: state.traffic_since is not None)
    early = tuple(replace(count, start=count.start - 2, end=count.start) for count in world.windows())
    world.readings = False
    assert world.look(counts=early).comparisons == {}


def test_a_window_from_the_future_is_an_error_and_does_not_shut_out_those_that_follow(make_world):
    world = make_world()
    world.until(progressing(0))
    far = tuple(replace(count, start=count.start + 9e5, end=count.end + 9e5) for count in world.windows())
    before = world.state.comparisons
    world.readings = False
    assert world.look(counts=far).comparisons == before
    assert "future" in str(world.state.clocks["errors"].error)
    world.readings = True
    assert world.look().comparisons != before


def test_after_the_clock_was_set_back_the_timers_start_anew(make_world):
    world = make_world()
    world.until(progressing(1))
    world.now -= 3600
    world.readings = False
    state = world.to_end(40)
    assert state.phase is Phase.ROLLED_BACK
    assert "No usable reading" in state.reason


def test_verdicts_on_data_that_has_grown_old_are_not_met(make_world):
    steps = [{"weight": 50, "minimum_dwell": "1h"}, {"weight": 100}]
    world = make_world({"no_data": {"hold_for": "5s", "then": "hold"}, "steps": steps})
    world.until(lambda state: any(verdict.met for verdict in state.verdicts if verdict.guardrail != ASSIGNMENT))
    world.readings = False
    for _ in range(10):
        world.look()
    assert not any(verdict.met for verdict in world.state.verdicts if verdict.guardrail != ASSIGNMENT)
    assert world.state.phase is Phase.PROGRESSING


def test_a_step_that_asks_for_no_samples_still_asks_for_a_reading_of_its_own(make_world):
    steps = [{"weight": w, "minimum_dwell": "0s", "minimum_samples": 0, "requires": "noHarm"} for w in (5, 50)]
    world = make_world({"steps": [*steps, {"weight": 100}]})
    world.until(progressing(1))
    world.readings = False
    for _ in range(10):
        assert world.look().step == 1


def test_the_split_of_users_is_judged_from_the_window_behind_the_candidates_first_answer(make_world):
    """Until then only stable's users are counted, and more of them than its weight says."""
    for assignment, judged in (("request", True), ("user", False)):
        world = make_world({"steps": FEW, "assignment": assignment})
        world.until(progressing(0))
        for candidate, stable in ((0, 300), (100, 300)):
            counts = [
                WindowCount(ASSIGNMENT, arm, world.now, world.now + 1, 0, n)
                for arm, n in ((CANDIDATE, candidate), (STABLE, stable))
            ]
            world.look(counts=tuple(counts))
        found = [verdict for verdict in world.state.verdicts if verdict.guardrail == ASSIGNMENT]
        assert any(verdict.outcome is Outcome.ERROR for verdict in found) is judged
        for _ in range(20):  # from here on, a split that is broken is found as ever
            counts = [
                WindowCount(ASSIGNMENT, arm, world.now, world.now + 1, 0, n)
                for arm, n in ((CANDIDATE, 60), (STABLE, 140))
            ]
            world.look(counts=tuple(counts))
        assert any(v.guardrail == ASSIGNMENT and v.outcome is Outcome.ERROR for v in world.state.verdicts)
