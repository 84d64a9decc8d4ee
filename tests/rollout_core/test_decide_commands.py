"""What people ask for while a rollout is under way: gates, pauses, commands, other versions, other policies."""

from __future__ import annotations

import pytest
from rollout_world import CANDIDATE, STABLE, progressing

from slipway.contracts.rollout import ArmTarget, RolloutSpec
from slipway.serving.rollout.core.decide import new_state
from slipway.serving.rollout.core.observations import Command, Target
from slipway.serving.rollout.core.types import Phase, SetWeights


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
