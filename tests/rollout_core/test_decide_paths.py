"""A rollout from start to end, and every way in which it may go another way."""

from __future__ import annotations

import pytest
from rollout_world import CANDIDATE, GOOD, STABLE, progressing

from slipway.serving.rollout.core.explain import explain
from slipway.serving.rollout.core.observations import ArmObservation, Command, SmokeTestResult
from slipway.serving.rollout.core.types import Alarm, MoveAlias, Outcome, Phase, SetWeights, StartArm, StopArm


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


def test_the_rollouts_own_deadline_goes_back(make_world):
    guardrails = [{"name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.99}}]
    world = make_world({"deadline": "40s", "guardrails": guardrails})
    assert "deadline" in world.to_end().reason
    assert world.state.phase is Phase.ROLLED_BACK


def test_weights_that_someone_else_changes_are_set_again_and_no_step_is_taken_meanwhile(make_world):
    world = make_world()
    world.until(progressing(1))
    world.obedient = False
    for _ in range(10):
        world.weights = {STABLE: 50, CANDIDATE: 50}
        world.look()
        assert world.asked(SetWeights)[0].weights == {STABLE: 75, CANDIDATE: 25}
        assert world.state.step == 1


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


def test_going_back_waits_until_the_registry_shows_the_old_champion(make_world):
    world = make_world(candidate_rates={"clicks": 0.36})
    world.until(lambda state: state.phase is Phase.PROMOTING)
    world.look(Command("a", "abort"))
    for _ in range(10):
        world.champion = "2"
        assert world.look().phase is Phase.ROLLING_BACK
        assert world.asked(MoveAlias)[0].version == "1"
    assert world.to_end().phase is Phase.ROLLED_BACK


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
