"""A policy that makes no sense is refused with a reason; one that does survives JSON."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slipway.contracts.rollout import Guardrail, RolloutPolicy

ERRORS = {"name": "errors", "kind": "errors", "margin": {"odds_ratio": 1.5}}


def test_the_defaults_are_a_canary_in_four_steps_over_four_guardrails():
    policy = RolloutPolicy()
    assert [step.weight for step in policy.steps] == [5, 25, 50, 100]
    assert [guardrail.name for guardrail in policy.guardrails] == ["errors", "latency", "fallbacks", "clicks"]
    requirements = [policy.requirement(index, policy.guardrails[0]) for index in range(4)]
    assert requirements == ["noHarm", "noHarm", "proven", "noHarm"]
    assert RolloutPolicy.model_validate_json(policy.model_dump_json()) == policy


def test_durations_are_written_as_people_write_them():
    policy = RolloutPolicy.model_validate({"steps": [{"weight": 100, "minimum_dwell": "1m30s"}], "deadline": "2h"})
    assert (policy.steps[0].minimum_dwell, policy.deadline) == (90.0, 7200.0)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"steps": [{"weight": 5}]}, "weight 100"),
        ({"steps": [{"weight": 50}, {"weight": 5}, {"weight": 100}]}, "must rise"),
        ({"steps": [{"weight": 5}, {"weight": 100, "requires": "proven"}]}, "only one arm"),
        ({"steps": [{"weight": 0}, {"weight": 100}]}, "minimum_samples: 0"),
        ({"steps": []}, "at least 1"),
        ({"guardrails": []}, "at least one guardrail"),
        ({"guardrails": [{**ERRORS, "dry_run": True}]}, "at least one guardrail"),
        ({"guardrails": [ERRORS, ERRORS]}, "must differ"),
        ({"guardrails": [{**ERRORS, "name": "assignment"}]}, "built-in"),
        ({"guardrails": [{**ERRORS, "margin": {"odds_ratio": 0.5}}]}, "at least 1"),
        ({"guardrails": [{**ERRORS, "margin": {}}]}, "odds_ratio, absolute, or both"),
        ({"guardrails": [{**ERRORS, "margin": {"odds_ratio": 1.0}}]}, "can never be proven"),
        ({"guardrails": [{**ERRORS, "kind": "latency"}]}, "needs it"),
        ({"guardrails": [{**ERRORS, "kind": "latency", "objective": 0.123}]}, "not a bucket"),
        ({"guardrails": [{**ERRORS, "kind": "counters"}]}, "counters"),
        ({"guardrails": [{**ERRORS, "direction": "higher"}]}, "direction"),
        ({"guardrails": [{"name": "c", "kind": "clicks", "margin": {"odds_ratio": 1.1}}]}, "higher is better"),
        ({"alpha": float("nan")}, "finite"),
        ({"alhpa": 0.1}, "alhpa"),
        ({"deadline": "soon"}, "not a duration"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_a_reason(document, words):
    with pytest.raises(ValidationError) as refusal:
        RolloutPolicy.model_validate(document)
    assert words in str(refusal.value)


def test_a_guardrail_may_ask_for_more_or_less_than_the_step():
    policy = RolloutPolicy.model_validate({"guardrails": [{**ERRORS, "requires": "noHarm"}]})
    assert policy.requirement(2, policy.guardrails[0]) == "noHarm"
    policy = RolloutPolicy.model_validate({"guardrails": [{**ERRORS, "requires": "proven"}]})
    assert policy.requirement(0, policy.guardrails[0]) == "proven"


def test_counters_of_the_users_own_say_which_direction_is_better():
    own = {"name": "plays", "kind": "counters", "counters": {"events": "plays_total", "total": "shown_total"}}
    guardrail = Guardrail.model_validate({**own, "direction": "higher", "margin": {"odds_ratio": 0.9}})
    assert guardrail.higher_is_better
    assert not guardrail.is_feedback
