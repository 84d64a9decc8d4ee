"""The custom resource's definition is what the contract says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.contracts.rollout.resource import LONGEST_NAME, RolloutResource, object_name
from slipway.serving.rollout.operator.crd import definition, manifest
from slipway.serving.rollout.operator.schema import structural

COMMITTED = Path(__file__).parents[2] / "manifests" / "crd" / "rollouts.yaml"


def test_the_committed_definition_is_the_one_that_is_made() -> None:
    assert COMMITTED.read_text() == manifest(), (
        "python -m slipway.serving.rollout.operator.crd manifests/crd/rollouts.yaml"
    )


def every_part(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, dict):
        return [schema, *(part for value in schema.values() for part in every_part(value))]
    return [part for one in schema for part in every_part(one)] if isinstance(schema, list) else []


def test_the_schema_is_structural_and_has_no_defaults() -> None:
    (version,) = definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for part in every_part(spec):
        assert "$ref" not in part
        assert "anyOf" not in part
        assert "title" not in part
        # A default that the server writes could not be told from a choice, and a preset would lose.
        assert "default" not in part or isinstance(part["default"], dict)


def test_every_field_of_the_contract_is_in_the_definition() -> None:
    (version,) = definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(spec) == {"model", "predictor", "traffic", "policy", "smokeTest"}
    assert set(spec["policy"]["properties"]) == set(RolloutResource.model_fields["policy"].annotation.model_fields)  # type: ignore[union-attr]


def test_what_a_structural_schema_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="structural"):
        structural({"anyOf": [{"type": "string"}, {"type": "boolean"}]})


@pytest.mark.parametrize(
    ("version", "name"), [("2", "films-v2"), ("12a", "films-v12a"), ("1.2", None), ("RC_1", None), ("x" * 40, None)]
)
def test_versions_make_names_that_kubernetes_takes(version: str, name: str | None) -> None:
    made = object_name("films", version)
    assert name in (made, None)
    assert made.replace("-", "").isalnum()
    assert made.islower()
    assert len(object_name("f" * LONGEST_NAME, version) + "-predictor") <= 63


def test_different_versions_have_different_names() -> None:
    versions = ["1.2", "1-2", "1_2", "A", "a", "x" * 39, "x" * 40]
    assert len({object_name("films", version) for version in versions}) == len(versions)


def test_the_policy_of_a_project_file_is_a_policy_of_a_rollout() -> None:
    text = "{preset: careful, steps: [{weight: 10, minimum_dwell: 5m}, {weight: 100, minimum_samples: 0}]}"
    resource = RolloutResource.model_validate(
        {
            "model": {"name": "films", "version": "2", "uri": "s3://b/films/2"},
            "traffic": {"gateway": {"name": "g"}, "hostnames": ["films.example.com"]},
            "policy": yaml.safe_load(text),
        }
    )
    assert resource.policy.steps[0].minimum_dwell == 300
    assert resource.policy.watch.duration == 3600
