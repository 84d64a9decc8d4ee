"""Blue/green, A/B tests with several candidates, shadows, the watch after promotion, freezes: on the same decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from slipway.contracts.rollout import RolloutPolicy
from slipway.serving.rollout.core.observations import Command, Target
from slipway.serving.rollout.core.types import MoveAlias, Outcome, Phase, SetWeights, StartArm, StopArm

STABLE, CANDIDATE, OTHER = "films-v1", "films-v2", "films-v3"
BELOW = {"weight": 25, "minimum_dwell": "3s", "minimum_samples": 50}
LAST = {"weight": 100, "minimum_dwell": "3s", "minimum_samples": 0}
WATCHED = {"steps": [BELOW, LAST], "watch": {"duration": "60s"}}
BETTER = {
    "name": "clicks", "kind": "clicks", "margin": {"odds_ratio": 0.9}, "requires": "better", "minimum_lift": 1.02
}  # fmt: skip
ERRORS = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5, "absolute": 0.01}, "requires": "noHarm",
          "hard_limit": {"rate": 0.2}}  # fmt: skip


def in_phase(phase):
    return lambda state: state.phase is phase


def weights_asked(world, arm):
    asked = [a.weights.get(arm, 0) for _, actions in world.history for a in actions if isinstance(a, SetWeights)]
    return list(dict.fromkeys(asked))


# -------------------------------------------------------------------------------------------------------- watch


def test_a_watched_promotion_keeps_stable_running_until_its_time_is_over(make_world):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    began = world.now
    assert world.champion == "2"
    while world.look().phase is Phase.WATCHING:
        assert STABLE in world.arms
        assert world.weights == {STABLE: 0, CANDIDATE: 100}
    assert world.now - began >= 60
    assert world.to_end().phase is Phase.PROMOTED
    assert STABLE not in world.arms


def test_stable_stays_for_the_watch_also_where_the_alias_names_the_candidate_already(make_world):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.champion = "2"
    world.until(in_phase(Phase.WATCHING))
    assert STABLE in world.arms
    assert not any(isinstance(a, StopArm) and a.arm == STABLE for _, actions in world.history for a in actions)


def test_a_fault_within_the_watch_goes_back_at_once_without_starting_anything(make_world):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    world.candidate_rates = {"errors": 0.9}
    before = len(world.history)
    state = world.to_end()
    assert state.phase is Phase.ROLLED_BACK
    assert world.champion == "1"
    assert world.weights == {STABLE: 100, CANDIDATE: 0}
    assert not any(isinstance(a, StartArm) and a.arm == STABLE for _, actions in world.history for a in actions)
    assert len(world.history) - before < 10


def test_a_control_group_lets_the_watch_compare_clicks_after_promotion(make_world):
    policy = {**WATCHED, "watch": {"duration": "5m", "control": 20}}
    world = make_world(policy, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    assert world.look().weights == {CANDIDATE: 80, STABLE: 20}
    world.candidate_rates = {"clicks": 0.1}
    state = world.to_end()
    assert (state.phase, world.champion) == (Phase.ROLLED_BACK, "1")
    assert "clicks:" in state.reason


@pytest.mark.parametrize("kind", ["promote", "skip"])
def test_a_person_can_end_the_watch(make_world, kind):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    world.look(Command("1", kind))
    assert world.to_end(20).phase is Phase.PROMOTED


def test_a_newer_version_ends_the_watch_and_starts_over_the_one_promoted(make_world):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    newer = Target(OTHER, "3", "three")
    state = world.look(desired=newer)
    for _ in range(20):
        state = world.look(desired=newer)
        if state.candidate.arm == OTHER:
            break
    assert (state.candidate.arm, state.stable.arm) == (OTHER, CANDIDATE)


def test_a_watch_that_sees_nothing_alarms_and_stays(make_world):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    world.readings = False
    state = world.look(metrics_error="Prometheus does not answer")
    assert state.phase is Phase.WATCHING
    assert "Prometheus does not answer" in state.alarm


def test_an_abort_within_the_watch_goes_back(make_world):
    world = make_world(WATCHED, candidate_rates={"clicks": 0.36})
    world.until(in_phase(Phase.WATCHING))
    world.look(Command("1", "abort"))
    assert world.to_end(20).phase is Phase.ROLLED_BACK
    assert world.champion == "1"


# --------------------------------------------------------------------------------------------------- blue/green


def test_blue_green_switches_in_one_step_and_keeps_blue(make_world):
    world = make_world({"preset": "blueGreen", "steps": [LAST]})
    world.until(in_phase(Phase.WATCHING))
    assert weights_asked(world, CANDIDATE) == [100]
    assert world.weights == {STABLE: 0, CANDIDATE: 100}
    assert world.arms[STABLE].ready == 2
    world.arms[CANDIDATE] = replace(world.arms[CANDIDATE], crash_looping=True)
    state = world.look()
    assert world.weights == {STABLE: 100, CANDIDATE: 0}, "one look from fault to going back"
    assert state.phase is Phase.ROLLING_BACK


# -------------------------------------------------------------------------------------------------- A/B, several


def test_an_equal_candidate_is_never_better_and_goes_back_at_the_deadline(make_world):
    steps = [{**BELOW, "weight": 50, "deadline": "60s"}, LAST]
    policy = {"strategy": "abTest", "steps": steps, "guardrails": [ERRORS, BETTER], "inconclusive": "rollback"}
    state = make_world(policy).to_end()
    assert state.phase is Phase.ROLLED_BACK
    assert "clicks (better)" in state.reason


def test_a_better_candidate_wins_and_a_fixed_horizon_waits_for_its_end(make_world):
    steps = [{**BELOW, "weight": 50, "deadline": "90s"}, LAST]
    policy = {"strategy": "abTest", "steps": steps, "guardrails": [ERRORS, BETTER], "inconclusive": "rollback"}
    took = {}
    for horizon in ("sequential", "fixed"):
        world = make_world({**policy, "horizon": horizon}, candidate_rates={"clicks": 0.4})
        world.until(lambda state: state.phase is Phase.PROGRESSING and state.step_since is not None)
        began = world.now
        world.until(lambda state: state.step == 1)
        took[horizon] = world.now - began
        assert world.to_end().phase is Phase.PROMOTED
    assert took["sequential"] < 60 <= 90 <= took["fixed"] < 95


def test_of_several_candidates_a_harmful_one_is_dropped_and_the_others_go_on(make_world):
    world = make_world({"steps": [BELOW, LAST]}, several=True, other_rates={"errors": 0.5})
    state = world.until(lambda state: state.dropped)
    assert set(state.dropped) == {OTHER}
    assert state.phase is Phase.PROGRESSING
    world.look()
    assert world.weights == {STABLE: 75, CANDIDATE: 25, OTHER: 0}
    state = world.to_end()
    assert (state.phase, world.champion) == (Phase.PROMOTED, "2")
    assert OTHER not in world.arms
    assert "three" in state.went_back


def test_the_best_of_several_better_candidates_gets_all_traffic(make_world):
    policy = {"strategy": "abTest", "steps": [{**BELOW, "weight": 30}, LAST], "guardrails": [ERRORS, BETTER],
              "horizon": "fixed"}  # fmt: skip
    policy["steps"][0] = {**policy["steps"][0], "deadline": "120s"}
    world = make_world(policy, several=True, candidate_rates={"clicks": 0.38}, other_rates={"clicks": 0.46})
    state = world.to_end()
    assert (state.phase, world.champion) == (Phase.PROMOTED, "3")
    assert world.weights == {STABLE: 0, CANDIDATE: 0, OTHER: 100}
    assert "three" not in state.went_back
    assert "two" not in state.went_back, "losing to a better one is no fault"


def test_when_every_candidate_does_harm_stable_gets_everything_back(make_world):
    world = make_world(several=True, candidate_rates={"errors": 0.5}, other_rates={"errors": 0.5})
    state = world.to_end()
    assert state.phase is Phase.ROLLED_BACK
    assert world.weights == {STABLE: 100, CANDIDATE: 0, OTHER: 0}
    assert set(state.went_back) == {"two", "three"}
    assert set(world.arms) == {STABLE}


def test_a_policy_with_room_for_one_keeps_the_first_of_several(make_world):
    world = make_world({"steps": [LAST]}, several=True)
    state = world.to_end()
    assert (state.phase, world.champion) == (Phase.PROMOTED, "2")
    assert "no room" in state.dropped[OTHER]
    assert all(
        min(a.weights.values()) >= 0 for _, actions in world.history for a in actions if isinstance(a, SetWeights)
    )
    assert set(world.arms) == {CANDIDATE}


def test_each_candidate_is_asked_before_any_of_them_gets_traffic(make_world):
    world = make_world(several=True)
    state = world.until(lambda state: state.phase is Phase.PROGRESSING)
    assert state.smoke_passed == (CANDIDATE, OTHER)
    world = make_world(several=True, smoke_passes=False)
    assert world.to_end().phase is Phase.ROLLED_BACK
    assert weights_asked(world, CANDIDATE) in ([], [0])


# ------------------------------------------------------------------------------------------------------- shadow

SHADOW = {
    "strategy": "shadow",
    "steps": [{"weight": 0, "mirror": 50, "minimum_dwell": "5s", "minimum_samples": 100, "deadline": "5m"}],
}


def test_a_shadow_answers_copies_and_ends_without_any_user_having_seen_it(make_world):
    world = make_world(SHADOW)
    state = world.to_end()
    assert state.phase is Phase.COMPLETED
    assert weights_asked(world, CANDIDATE) in ([0], [])
    copies = [a.mirrors.get(CANDIDATE) for _, actions in world.history for a in actions if isinstance(a, SetWeights)]
    assert 50 in copies
    assert (world.weights.get(STABLE), world.mirrors) == (100, {})
    assert not any(isinstance(action, MoveAlias) for _, actions in world.history for action in actions)
    assert CANDIDATE not in world.arms


def test_a_harmful_shadow_goes_back_and_is_remembered(make_world):
    world = make_world(SHADOW, candidate_rates={"errors": 0.5})
    state = world.to_end()
    assert state.phase is Phase.ROLLED_BACK
    assert state.went_back == ("two",)
    assert world.mirrors == {}


def test_copies_that_do_not_flow_are_no_data(make_world):
    world = make_world(SHADOW)
    world.until(lambda state: state.step_since is not None)
    world.readings = False
    state = world.to_end()
    assert state.phase is Phase.ROLLED_BACK
    assert "No usable reading" in state.reason


def test_a_mirrored_step_may_come_before_the_first_share_of_traffic(make_world):
    world = make_world({"steps": [SHADOW["steps"][0], BELOW, LAST]}, candidate_rates={"clicks": 0.36})
    assert world.to_end().phase is Phase.PROMOTED
    assert [weight for weight in weights_asked(world, CANDIDATE) if weight] == [25, 100]


# ------------------------------------------------------------------------------------------------------- freeze

BEGIN, END = datetime.fromtimestamp(1010, UTC), datetime.fromtimestamp(1100, UTC)
FROZEN = {
    "steps": [BELOW, {**BELOW, "weight": 50}, LAST],
    "freeze": [{"name": "night", "start": BEGIN.isoformat(), "end": END.isoformat()}],
}


def test_no_weight_rises_within_a_freeze_and_the_rollout_goes_on_after_it(make_world):
    world = make_world(FROZEN, candidate_rates={"clicks": 0.36})
    world.until(lambda _: world.now > 1011)
    weight = world.weights[CANDIDATE]
    while world.now < 1099:
        assert world.look().weights.get(CANDIDATE, 0) <= weight
    assert "frozen until" in world.state.reason
    assert "(night)" in world.state.reason
    assert world.to_end().phase is Phase.PROMOTED


def test_a_bad_candidate_goes_back_within_a_freeze(make_world):
    world = make_world(FROZEN, candidate_rates={"clicks": 0.36})
    world.until(lambda _: world.now > 1020)
    world.candidate_rates = {"errors": 0.6}
    assert world.to_end(30).phase is Phase.ROLLED_BACK
    assert world.now < 1100


def test_deadlines_do_not_run_while_frozen(make_world):
    world = make_world({**FROZEN, "deadline": "80s"}, candidate_rates={"clicks": 0.36})
    state = world.to_end()
    assert state.phase is Phase.PROMOTED
    assert world.now > 1100


def test_a_freeze_keeps_a_new_version_from_its_first_traffic(make_world):
    world = make_world({**FROZEN, "freeze": [{"start": "1970-01-01 00:00", "end": END.isoformat()}]})
    world.until(lambda _: world.now > 1060)
    assert world.state.phase is Phase.SMOKE_TEST
    assert world.weights == {STABLE: 100}
    world.until(lambda state: state.phase is Phase.PROGRESSING)
    assert world.now >= 1100


# ----------------------------------------------------------------------------------------------- early promotion


def test_early_promotion_goes_straight_to_the_last_step_once_everything_is_proven(make_world):
    steps = [{**BELOW, "minimum_dwell": "40s"}, {**BELOW, "weight": 30}, {**BELOW, "weight": 50}, LAST]
    world = make_world({"steps": steps, "early_promotion": True}, candidate_rates={"clicks": 0.45}, requests=2000)
    state = world.to_end()
    assert state.phase is Phase.PROMOTED
    assert weights_asked(world, CANDIDATE) == [25, 100]
    proven = [s for s, _ in world.history if s.step == 0 and s.verdicts][-1]
    assert all(verdict.outcome is Outcome.PASS for verdict in proven.verdicts)


# ------------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("preset", ["careful", "standard", "blueGreen", "abTest", "shadow"])
def test_every_preset_is_a_valid_policy_and_takes_fields_of_ones_own(preset):
    policy = RolloutPolicy.model_validate({"preset": preset, "alpha": 0.01})
    assert policy.alpha == 0.01
    assert RolloutPolicy.model_validate(policy.model_dump()) == policy


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"strategy": "shadow"}, "copies of requests only"),
        ({"strategy": "abTest", "steps": [{"weight": 100}]}, "both versions have traffic"),
        ({"steps": [{"weight": 5, "mirror": 5}, {"weight": 100}]}, "copies are for weight 0"),
        ({"steps": [{"weight": 100, "requires": "better"}]}, "only one arm has traffic"),
        ({"steps": [{"weight": 5, "margins": {"typo": {"absolute": 0.1}}}, {"weight": 100}]}, "no such guardrail"),
        ({"freeze": [{"start": "Fri 16:00", "end": "2026-01-01"}]}, "both weekly"),
        ({"freeze": [{"start": "Fri 16:00", "end": "Mon 08:00", "timezone": "Mars/Base"}]}, "IANA"),
        ({"preset": "bold"}, "preset"),
    ],
)  # fmt: skip
def test_a_policy_that_contradicts_itself_is_refused_with_the_reason(policy, message):
    with pytest.raises(ValueError, match=message):
        RolloutPolicy.model_validate(policy)
