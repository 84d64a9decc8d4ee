"""The project file: what is accepted, and how each mistake is told."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from slipway.contracts.errors import ProjectFileError, UsageError
from slipway.contracts.project import load_project, parse_project, project_json_schema

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALLEST = "apiVersion: slipway.dev/v1alpha1\nname: shop\ndata:\n  interactions: {source: events.parquet}\n"


def problems_of(text: str, *overrides: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ProjectFileError) as caught:
        parse_project(text, "slipway.yaml", overrides)
    assert caught.value.exit_code == 2
    return [(problem.line, problem.field, str(problem)) for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/slipway.yaml")), ids=lambda path: path.parent.name)
def test_every_example_loads_and_fits_the_json_schema(path: Path) -> None:
    assert load_project(path).name == path.parent.name
    jsonschema.validate(yaml.safe_load(path.read_text()), project_json_schema())


def test_four_lines_are_a_project_and_everything_else_has_a_default() -> None:
    project = parse_project(SMALLEST)
    assert project.model.family == "matrix_factorization"
    assert [step.weight for step in project.rollout.steps] == [5, 25, 50, 100]
    assert project.step("train").timeout == timedelta(hours=1)


def test_the_json_schema_refuses_an_unknown_field() -> None:
    content = yaml.safe_load(SMALLEST) | {"modle": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, project_json_schema())


def test_the_json_schema_is_plain_json() -> None:
    assert json.loads(json.dumps(project_json_schema()))["properties"]["apiVersion"]["const"] == "slipway.dev/v1alpha1"


def test_a_misspelled_field_is_told_with_its_line_and_the_nearest_name() -> None:
    (line, field, text), *others = problems_of(SMALLEST + "model:\n  seed: 1\n  famly: popularity\n")
    assert (line, field, others) == (7, "model.famly", [])
    assert "Did you mean 'family'?" in text


def test_every_problem_is_told_at_once_in_the_order_of_the_lines() -> None:
    text = SMALLEST + "split: {method: last}\nserving: {replicas: 0}\nrollout: {alpha: 2}\n"
    found = problems_of(text)
    assert [line for line, _, _ in found] == [5, 6, 7]
    assert [field for _, field, _ in found] == ["split.method", "serving.replicas", "rollout.alpha"]
    assert "'time', 'last_share', 'leave_last_out' or 'given'" in found[0][2]


def test_a_missing_field_is_told_where_it_should_stand() -> None:
    (line, field, text), *_ = problems_of("apiVersion: slipway.dev/v1alpha1\nname: shop\ndata:\n  interactions: {}\n")
    assert (line, field) == (4, "data.interactions.source")
    assert "Add 'source' here" in text


def test_a_field_that_stands_twice_is_refused() -> None:
    (line, field, _), *_ = problems_of(SMALLEST + "name: other\n")
    assert (line, field) == (5, "name")


def test_text_that_is_not_yaml_is_told_with_its_line() -> None:
    (line, _, text), *_ = problems_of("apiVersion: slipway.dev/v1alpha1\nname: [shop\ndata: {}\n")
    assert line == 3
    assert "not YAML" in text


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_file_without_fields_is_refused(text: str) -> None:
    assert "it holds no fields" in problems_of(text)[0][2]


def test_a_gate_on_a_metric_that_is_never_measured_is_refused() -> None:
    assert "add 20 to evaluation.k" in problems_of(SMALLEST + "gates: [{metric: ndcg@20, minimum: 0.1}]\n")[0][2]


def test_a_model_that_reads_a_view_that_is_never_made_is_refused() -> None:
    assert "'clicks' is not among features.views" in problems_of(SMALLEST, "model.features=[clicks]")[0][2]


def test_overrides_are_typed_and_make_the_parts_that_they_need() -> None:
    project = parse_project(SMALLEST, overrides=["model.parameters.factors=16", "split.method=leave_last_out"])
    assert project.model.parameters == {"factors": 16}
    assert project.split.method == "leave_last_out"


@pytest.mark.parametrize("override", ["model.seed", "=3", "name.first=3"])
def test_an_override_that_cannot_be_applied_is_a_usage_error(override: str) -> None:
    with pytest.raises(UsageError):
        parse_project(SMALLEST, overrides=[override])


def test_an_absent_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slipway init films"):
        load_project(tmp_path)


def test_state_lies_beside_the_project_file(tmp_path: Path) -> None:
    (tmp_path / "slipway.yaml").write_text(SMALLEST)
    assert load_project(tmp_path).state == tmp_path / ".slipway"


@pytest.mark.parametrize("size", ["1 parsec", "-1", "1.5MiB"])
def test_a_body_limit_that_is_no_size_is_refused(size: str) -> None:
    assert problems_of(SMALLEST, f"serving.maximum_body={size}")[0][1].startswith("serving.maximum_body")


def test_a_field_that_nothing_reads_is_not_accepted() -> None:
    assert problems_of(SMALLEST, "tracking.experiment=mine")[0][1] == "tracking.experiment"


def test_requests_that_expire_before_their_feedback_may_come_are_refused() -> None:
    found = problems_of(SMALLEST, "serving.feedback_wait=2h", "serving.request_expiry=1h")
    assert "feedback_wait" in found[0][2]
