"""A rollout from start to end, and every way in which it may go another way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from slipway.contracts.rollout import ASSIGNMENT, ArmTarget, RolloutSpec
from slipway.serving.rollout.core.decide import new_state
from slipway.serving.rollout.core.explain import explain
from slipway.serving.rollout.core.types import (
    Alarm,
    ArmObservation,
    Command,
    MoveAlias,
    Outcome,
    Phase,
    SetWeights,
    SmokeTestResult,
    StartArm,
    StopArm,
    Target,
)

STABLE, CANDIDATE, GOOD = "films-v1", "films-v2", "films-v0"


def progressing(step):
    return lambda state: state.phase is Phase.PROGRESSING and state.step == step and state.step_since is not None


def test_a_good_candidate_goes_through_every_weight_and_gets_the_alias(make_world):
    world = make_world(candidate_rates={"clicks": 0.36})
    state = world.to_end()
    assert state.phase is Phase.PROMOTED
    asked = [a.weights[CANDIDATE] for _, actions in world.history for a in actions if isinstance(a, SetWeights)]
    assert sorted(set(asked)) == [5, 25, 50, 100] == list(dict.fromkeys(asked))
    assert world.champion == "2"
    assert world.weights == {STABLE: 0, CANDIDATE: 100}
    assert STABLE not in world.arms


@pytest.mark.parametrize(
    ("rates", "guardrail"),
    [
        ({"clicks": 0.1}, "clicks"),
        ({"errors": 0.3}, "errors"),
        ({"errors": 0.04}, "errors"),
        ({"latency": 0.3}, "latency"),
        ({"fallbacks": 0.2}, "fallbacks"),
    ],
)
def test_a_bad_candidate_goes_back_for_the_guardrail_that_it_breaks(make_world, rates, guardrail):
    world = make_world(candidate_rates=rates)
    state = world.to_end()
    assert state.phase is Phase.ROLLED_BACK
    assert f"{guardrail}:" in state.reason
    assert world.weights == {STABLE: 100, CANDIDATE: 0}
    assert world.champion == "1"
    assert CANDIDATE not in world.arms


def test_clicks_alone_take_back_a_candidate_that_is_healthy_by_every_other_measure(make_world):
    world = make_world(candidate_rates={"clicks": 0.1})
    world.to_end()
    failed = {v.guardrail for state, _ in world.history for v in state.verdicts if v.outcome is Outcome.FAIL}
    assert failed == {"clicks"}


def test_the_first_version_gets_all_traffic_after_its_smoke_test(make_world):
    world = make_world(first=True)
    state = world.to_end()
    assert state.phase is Phase.PROMOTED
    assert world.weights == {CANDIDATE: 100}
    assert world.champion == "2"


def test_a_first_version_that_fails_its_smoke_test_never_gets_traffic(make_world):
    world = make_world(first=True, smoke_passes=False)
    state = world.to_end()
    assert state.phase is Phase.FAILED
    assert "status 500" in state.reason
    assert not any(isinstance(a, SetWeights | MoveAlias) for _, actions in world.history for a in actions)


def test_a_failed_smoke_test_goes_back_before_any_traffic(make_world):
    world = make_world(smoke_passes=False)
    assert world.to_end().phase is Phase.ROLLED_BACK
    assert all(weights.get(CANDIDATE, 0) == 0 for weights in [world.weights])


def test_a_candidate_that_never_becomes_ready_goes_back_at_the_readiness_timeout(make_world):
    world = make_world()
    for _ in range(25):
        world.arms[CANDIDATE] = ArmObservation(0, 2, digest="two")
        assert world.look().phase in (Phase.PENDING, Phase.STARTING)
    for _ in range(10):
        if CANDIDATE in world.arms:
            world.arms[CANDIDATE] = ArmObservation(0, 2, digest="two")
        world.look()
    assert world.state.phase is Phase.ROLLED_BACK
    assert "not ready" in world.state.reason


def test_another_bundle_than_the_one_wanted_never_counts_as_ready(make_world):
    world = make_world()
    world.arms[CANDIDATE] = ArmObservation(2, 2, digest="another")
    for _ in range(20):
        assert world.look().phase is Phase.STARTING


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ArmObservation(0, 2, digest="two"), "lost readiness"),
        (ArmObservation(1, 2, crash_looping=True, digest="two"), "crash-looping"),
        (ArmObservation(2, 2, restarts=9, digest="two"), "restarted"),
        (ArmObservation(2, 2, digest="another"), "another bundle"),
        (None, "lost readiness"),
    ],
)
@pytest.mark.parametrize("where", ["progressing", "paused", "gate"])
def test_a_hard_fault_goes_back_at_once_also_at_pauses_and_gates(make_world, fault, words, where):
    steps = [
        {"weight": 5, "minimum_dwell": "2s", "minimum_samples": 10, "gate": where == "gate"},
        {"weight": 100, "minimum_dwell": "1h"},
    ]
    world = make_world({"steps": steps})
    if where == "gate":
        world.until(lambda state: state.phase is Phase.AWAITING_GATE)
    else:
        world.until(progressing(0))
    if where == "paused":
        assert world.look(Command("p", "pause")).phase is Phase.PAUSED
    if fault is None:
        del world.arms[CANDIDATE]
    else:
        world.arms[CANDIDATE] = fault
    state = world.look()
    assert state.phase is Phase.ROLLING_BACK
    assert words in state.reason
    assert world.asked(SetWeights)[0].weights == {STABLE: 100, CANDIDATE: 0}


@pytest.mark.parametrize("where", ["paused", "gate"])
def test_evidence_of_harm_goes_back_also_at_pauses_and_gates(make_world, where):
    steps = [
        {"weight": 20, "minimum_dwell": "2s", "minimum_samples": 10, "gate": True, "requires": "noHarm"},
        {"weight": 100, "minimum_dwell": "1h"},
    ]
    world = make_world({"steps": steps})
    if where == "gate":
        world.until(lambda state: state.phase is Phase.AWAITING_GATE)
    else:
        world.until(progressing(0))
        world.look(Command("p", "pause"))
    world.candidate_rates = {"clicks": 0.05}
    world.until(lambda state: state.phase is Phase.ROLLING_BACK, 30)
    assert "clicks" in world.state.reason


def test_a_step_without_traffic_ends_after_its_dwell(make_world):
    steps = [{"weight": 0, "minimum_dwell": "5s", "minimum_samples": 0}, *make_world().policy.model_dump()["steps"]]
    world = make_world({"steps": steps}, candidate_rates={"clicks": 0.36})
    world.until(progressing(0))
    for _ in range(4):
        assert world.look().step == 0
    assert world.to_end().phase is Phase.PROMOTED


def test_one_replica_of_two_lost_is_not_a_hard_fault(make_world):
    world = make_world()
    world.until(progressing(0))
    world.arms[CANDIDATE] = ArmObservation(1, 2, restarts=1, digest="two")
    assert world.look().phase is Phase.PROGRESSING


def test_a_plane_that_does_not_answer_is_neither_a_fault_nor_progress(make_world):
    world = make_world()
    world.until(progressing(1))
    for _ in range(15):
        assert world.look(arms={}).phase is Phase.PROGRESSING
    assert world.state.step == 1


def test_with_both_bad_the_traffic_stays_and_an_alarm_sounds_until_stable_is_back(make_world):
    world = make_world(candidate_rates={"errors": 0.5})
    world.until(progressing(0))
    world.arms[STABLE] = ArmObservation(0, 2, digest="one")
    world.until(lambda state: state.phase is Phase.HOLDING, 20)
    for _ in range(30):
        world.look()
        assert world.weights == {STABLE: 95, CANDIDATE: 5}
        assert world.asked(Alarm)
        assert [a.arm for a in world.asked(StartArm)] == [STABLE]
    world.arms[STABLE] = ArmObservation(2, 2, digest="one")
    assert world.to_end().phase is Phase.ROLLED_BACK
    assert world.weights == {STABLE: 100, CANDIDATE: 0}


def test_stable_that_breaks_the_hard_limit_itself_gets_no_traffic_back(make_world):
    world = make_world(candidate_rates={"errors": 0.9}, stable_rates={"errors": 0.9})
    world.until(lambda state: state.phase is Phase.HOLDING, 30)
    world.look()
    assert world.weights[CANDIDATE] == 5
    world.stable_rates = {"errors": 0.0}
    assert world.state.phase is Phase.HOLDING


def test_with_both_bad_a_known_good_version_takes_the_traffic(make_world):
    world = make_world({"known_good": "0"}, known_good=True)
    world.until(progressing(0))
    world.arms[STABLE] = ArmObservation(0, 2, digest="one")
    world.arms[CANDIDATE] = ArmObservation(0, 2, digest="two")
    for _ in range(5):
        world.look()
    assert world.state.phase is Phase.HOLDING
    assert world.weights == {STABLE: 0, CANDIDATE: 0, GOOD: 100}


def test_an_unhealthy_stable_holds_the_step(make_world):
    world = make_world()
    world.until(progressing(0))
    world.arms[STABLE] = ArmObservation(0, 2, digest="one")
    for _ in range(15):
        state = world.look()
    assert (state.phase, state.step) == (Phase.PROGRESSING, 0)
    assert "not healthy" in state.alarm


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


def test_a_gate_waits_for_approval_and_then_goes_on(make_world):
    steps = [{"weight": 5, "minimum_dwell": "2s", "gate": True}, {"weight": 100, "minimum_dwell": "2s"}]
    guardrails = [{"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.05}}]
    world = make_world({"steps": steps, "guardrails": guardrails})
    world.until(lambda state: state.phase is Phase.AWAITING_GATE)
    for _ in range(20):
        assert world.look().phase is Phase.AWAITING_GATE
    world.look(Command("a", "approve", "kim"))
    assert world.to_end().phase is Phase.PROMOTED


def test_a_pause_keeps_the_weight_and_stops_the_clock_of_the_deadline(make_world):
    world = make_world({"deadline": "60s"})
    world.until(progressing(1))
    world.look(Command("p", "pause"))
    for _ in range(100):
        assert world.look().phase is Phase.PAUSED
    assert world.weights[CANDIDATE] == 25
    assert world.look(Command("r", "resume")).phase is Phase.PROGRESSING
    assert world.to_end().phase is Phase.PROMOTED


def test_a_command_takes_effect_once_however_often_it_is_seen(make_world):
    world = make_world()
    world.until(progressing(0))
    pause = Command("same", "pause")
    world.look(pause)
    world.look(pause, Command("r", "resume"))
    assert world.look(pause).phase is Phase.PROGRESSING


def test_abort_goes_back_from_every_phase_before_the_end(make_world):
    for looks in range(1, 40, 2):
        world = make_world(candidate_rates={"clicks": 0.36})
        for _ in range(looks):
            world.look()
        if world.state.terminal:
            break
        world.look(Command("a", "abort", "kim"))
        assert world.to_end(20).phase is Phase.ROLLED_BACK, looks
        assert (world.weights[STABLE], world.champion) == (100, "1")


def test_a_version_that_went_back_is_tried_again_only_on_retry_or_with_another_digest(make_world):
    world = make_world(candidate_rates={"errors": 0.5})
    world.to_end()
    for _ in range(5):
        world.look(desired=Target(CANDIDATE, "2", "two"))
        assert world.state.phase is Phase.ROLLED_BACK
        assert world.actions == ()
        assert "Evidence of harm" in world.state.reason
    world.candidate_rates = {}
    assert world.look(desired=Target(CANDIDATE, "2", "mended")).phase is Phase.PENDING

    world = make_world(candidate_rates={"errors": 0.5})
    world.to_end()
    world.candidate_rates = {"clicks": 0.36}
    assert world.look(Command("again", "retry")).phase in (Phase.PENDING, Phase.STARTING)
    assert world.to_end().phase is Phase.PROMOTED


@pytest.mark.parametrize("choice", ["replace", "queue", "refuse"])
def test_a_new_version_during_a_rollout_is_treated_as_the_policy_says(make_world, choice):
    world = make_world({"on_new_version": choice}, candidate_rates={"clicks": 0.36})
    world.until(progressing(1))
    newer = Target("films-v3", "3", "three")
    world.look(desired=newer)
    if choice == "replace":
        assert world.state.phase is Phase.ROLLING_BACK
        assert world.to_end().phase is Phase.ROLLED_BACK
        assert "two" not in world.state.went_back
    else:
        assert world.state.phase is Phase.PROGRESSING
        assert world.to_end().phase is Phase.PROMOTED
    if choice == "refuse":
        assert any("films-v3 was refused" in str(actions) for _, actions in world.history)
    else:
        world.obedient = False
        state = world.look()
        assert (state.phase, state.candidate) == (Phase.PENDING, newer)
        assert state.stable is not None
        assert state.stable.arm == (STABLE if choice == "replace" else CANDIDATE)
        assert state.comparisons == {}


def test_stable_wanted_again_ends_the_rollout(make_world):
    world = make_world()
    world.until(progressing(1))
    assert world.look(desired=Target(STABLE, "1", "one")).phase is Phase.ROLLING_BACK


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


def test_the_rollouts_own_deadline_goes_back(make_world):
    guardrails = [{"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.99}}]
    world = make_world({"deadline": "40s", "guardrails": guardrails})
    assert "deadline" in world.to_end().reason
    assert world.state.phase is Phase.ROLLED_BACK


def test_a_dry_run_guardrail_is_judged_and_decides_nothing(make_world):
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}, "dry_run": True}
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.02}}
    world = make_world({"guardrails": [errors, clicks]}, candidate_rates={"clicks": 0.05})
    assert world.to_end().phase is Phase.PROMOTED
    verdict = next(v for v in world.state.verdicts if v.guardrail == "clicks")
    assert (verdict.outcome, verdict.dry_run) == (Outcome.FAIL, True)


def test_a_person_may_promote_or_skip_without_proof_but_not_after_harm(make_world):
    for kind, weight in (("promote", 100), ("skip", 25)):
        world = make_world()
        world.until(progressing(0))
        world.look(Command("x", kind, "kim"))
        world.look()
        assert world.weights[CANDIDATE] == weight
    world = make_world(candidate_rates={"errors": 0.5})
    world.until(progressing(0))
    world.obedient = False
    world.until(lambda state: state.phase is Phase.ROLLING_BACK)
    for kind in ("promote", "skip", "resume", "approve", "pause"):
        world.look(Command(kind, kind))
        assert world.asked(SetWeights)[0].weights[CANDIDATE] == 0


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


def test_weights_that_someone_else_changes_are_set_again_and_no_step_is_taken_meanwhile(make_world):
    world = make_world()
    world.until(progressing(1))
    world.obedient = False
    for _ in range(10):
        world.weights = {STABLE: 50, CANDIDATE: 50}
        world.look()
        assert world.asked(SetWeights)[0].weights == {STABLE: 75, CANDIDATE: 25}
        assert world.state.step == 1


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


def test_an_edited_policy_never_raises_the_weight_and_starts_changed_evidence_anew(make_world):
    world = make_world()
    world.until(progressing(1))
    steps = [{"weight": 10, "minimum_dwell": "1h"}, {"weight": 60}, {"weight": 100}]
    clicks = {"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.8}}
    world.policy = world.policy.model_validate({"steps": steps, "guardrails": [clicks]})
    world.look()
    world.look()
    assert world.weights[CANDIDATE] == 10
    assert world.state.comparisons["clicks/films-v2"].windows <= 2


def test_a_hard_fault_while_promoting_goes_back_with_the_alias(make_world):
    world = make_world(candidate_rates={"clicks": 0.36})
    world.until(lambda state: state.phase is Phase.PROMOTING)
    world.arms[CANDIDATE] = ArmObservation(0, 2, digest="two")
    assert world.look().phase is Phase.ROLLING_BACK
    assert world.to_end().phase is Phase.ROLLED_BACK
    assert (world.champion, world.weights) == ("1", {STABLE: 100, CANDIDATE: 0})


def test_promotion_waits_until_the_registry_shows_the_new_champion(make_world):
    world = make_world(candidate_rates={"clicks": 0.36})
    world.until(lambda state: state.phase is Phase.PROMOTING)
    for _ in range(10):
        world.champion = "1"
        assert world.look().phase is Phase.PROMOTING
        assert world.asked(MoveAlias)[0].version == "2"
        assert not world.asked(StopArm)


def test_a_first_version_is_not_promoted_before_the_registry_shows_it(make_world):
    world = make_world(first=True)
    world.until(lambda state: state.phase is Phase.PROMOTING)
    for _ in range(5):
        world.champion = None
        assert world.look().phase is Phase.PROMOTING
    assert world.to_end().phase is Phase.PROMOTED


def test_worse_by_the_odds_and_inside_the_absolute_margin_is_tolerated(make_world):
    errors = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.2, "absolute": 0.02}}
    world = make_world({"guardrails": [errors]}, candidate_rates={"errors": 0.006}, stable_rates={"errors": 0.001})
    world.requests = 2000
    assert world.to_end().phase is Phase.PROMOTED
    alone = {**errors, "margin": {"odds_ratio": 1.2}}
    world = make_world({"guardrails": [alone]}, candidate_rates={"errors": 0.006}, stable_rates={"errors": 0.001})
    world.requests = 2000
    assert world.to_end().phase is Phase.ROLLED_BACK


def test_going_back_waits_until_the_registry_shows_the_old_champion(make_world):
    world = make_world(candidate_rates={"clicks": 0.36})
    world.until(lambda state: state.phase is Phase.PROMOTING)
    world.look(Command("a", "abort"))
    for _ in range(10):
        world.champion = "2"
        assert world.look().phase is Phase.ROLLING_BACK
        assert world.asked(MoveAlias)[0].version == "1"
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


def test_a_state_that_begins_with_a_version_that_went_back_waits_for_retry(make_world):
    world = make_world()
    spec = RolloutSpec(
        id="r2",
        model="films",
        candidates=(ArmTarget(arm=CANDIDATE, version="2", digest="two"),),
        stable=ArmTarget(arm=STABLE, version="1", digest="one"),
        policy=world.policy,
    )
    world.state = new_state(spec, world.now, went_back=("two",))
    assert world.look().phase is Phase.ROLLED_BACK
    assert world.look(Command("r", "retry")).phase is Phase.PENDING


def test_no_arm_is_stopped_before_its_weight_of_zero_was_seen(make_world):
    world = make_world(candidate_rates={"errors": 0.5})
    world.until(progressing(0))
    world.obedient = False
    world.until(lambda state: state.phase is Phase.ROLLING_BACK)
    for _ in range(5):
        world.look()
        assert world.asked(SetWeights)
        assert not world.asked(StopArm)


def test_a_smoke_test_answer_of_another_arm_does_not_count(make_world):
    world = make_world()
    world.until(lambda state: state.phase is Phase.SMOKE_TEST)
    for _ in range(3):
        assert world.look(smoke_test=SmokeTestResult("other", True)).phase is Phase.SMOKE_TEST


def test_the_explanation_says_what_happened_in_a_persons_words(make_world):
    world = make_world(candidate_rates={"clicks": 0.1})
    world.until(lambda state: state.phase is Phase.ROLLING_BACK)
    text = explain(world.state, world.policy, world.now)
    assert "films-v2 is RollingBack" in text
    assert "clicks FAIL" in text
    assert "worse than the tolerated odds ratio 0.9" in text
