"""The part `sweep:` of a project file: what is accepted, and how each mistake is told."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from sweeps import PROJECT, project_with

from slipway.contracts.errors import ProjectFileError
from slipway.contracts.project import parse_project, project_json_schema
from slipway.contracts.project.sweep import ParameterSpec, grid_points, read_text, text_of
from slipway.pipelines.sweeps.check import check_sweep

LINE_OF_FACTORS = 1 + PROJECT.splitlines().index("    factors: {type: int, min: 4, max: 64, log: true}")


def mistakes(factors: str) -> list[tuple[int | None, str, str]]:
    """Returns line, field and text of each mistake of a project whose parameter `factors` is this."""
    text = PROJECT.replace("{type: int, min: 4, max: 64, log: true}", factors)
    with pytest.raises(ProjectFileError) as caught:
        parse_project(text)
    return [(problem.line, problem.field, str(problem)) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("factors", "says"),
    [
        ("{type: int, min: 64, max: 4}", "min is 64, above max, which is 4"),
        ("{type: int, min: 4, max: 4}", "the range is empty"),
        ("{type: double, min: 0, max: 4, log: true}", "a log scale has no 0"),
        ("{type: double, min: -1, max: 4, log: true}", "a log scale has no -1"),
        ("{type: int, min: 0.5, max: 4}", "whole numbers"),
        ("{type: int, min: 4}", "needs `min` and `max`"),
        ("{type: int, min: 4, max: 8, step: 5}", "wider than the range"),
        ("{type: double, min: 1, max: 8, step: 1, log: true}", "exclude each other"),
        ("{type: int, values: [1, 2], min: 1, max: 2}", "no values"),
        ("{type: categorical, values: [a]}", "the range is empty"),
        ("{type: categorical, values: [a, a]}", "twice"),
        ("{type: categorical, values: [a, b], min: 1}", "no min"),
        ("{type: discrete, values: [1, b]}", "write categorical"),
        ("{type: categorical, values: ['1', b]}", "cannot be handed to a trial as text"),
        ("{type: categorical, values: ['a\"', b]}", "cannot be handed to a trial as text"),
        ("{type: categorical, values: ['${x}', b]}", "cannot be handed to a trial as text"),
        ("{type: integer, min: 1, max: 2}", "Write one of"),
        ("{type: double, min: 1, max: .inf}", "finite"),
    ],
)
def test_a_range_that_cannot_be_searched_is_told_with_its_line(factors: str, says: str) -> None:
    (line, field, text), *_ = mistakes(factors)
    assert line == LINE_OF_FACTORS
    assert field.startswith("sweep.parameters.factors")
    assert says in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sweep.objective.metric=ndgc@5"], "unknown metric 'ndgc@5'"),
        (["sweep.max_failed_trials=7"], "above max_trials"),
        (["sweep.parallel_trials=7"], "above max_trials"),
        (["sweep.algorithm=simulated-annealing"], "Write one of"),
        (["sweep.algorithm=sobol"], "knows no log scale"),
        (["sweep.algorithm=cmaes"], "knows no log scale"),
        (
            ["sweep.algorithm=grid", "sweep.parameters={a: {type: double, min: 0, max: 1}}"],
            "a grid needs a `step` for a",
        ),
        (["sweep.algorithm=grid", "sweep.parameters={a: {type: int, min: 1, max: 2}}"], "the grid has 2 points"),
        (["sweep.algorithm=cmaes", "sweep.parameters={a: {type: int, min: 1, max: 2}}"], "at least two parameters"),
        (["sweep.algorithm=bayesianoptimization", "sweep.parameters={a: {type: double, min: 0, max: 2}}"], "log scale"),
        (["sweep.algorithm=hyperband"], "hyperband needs `resource`"),
        (
            [
                "sweep.algorithm={name: hyperband, resource: epochs, maximum_resource: 9}",
                "sweep.parameters={a: {type: int, min: 1, max: 2}}",
            ],
            "must be among the parameters",
        ),
        (["sweep.parameters={}"], "at least 1"),
        (["sweep.parameters={'a b': {type: int, min: 1, max: 2}}"], "no name of a parameter"),
        (["sweep.early_stopping=hope"], "medianstop"),
    ],
)
def test_what_katib_would_refuse_or_misread_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ProjectFileError) as caught:
        project_with(*overrides)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_hyperband_says_how_many_trials_it_starts_at_once() -> None:
    band = "sweep.algorithm={name: hyperband, resource: epochs, maximum_resource: 9}"
    space = "sweep.parameters={epochs: {type: int, min: 1, max: 9}, a: {type: int, min: 1, max: 5}}"
    with pytest.raises(ProjectFileError, match="raise parallel_trials to 9"):
        project_with(band, space, "sweep.max_trials=20")
    with pytest.raises(ProjectFileError, match="values from 1 to 9"):
        project_with(band, space.replace("min: 1, max: 9", "min: 2, max: 9"), "sweep.max_trials=20")
    sweep = project_with(band, space, "sweep.max_trials=20", "sweep.parallel_trials=9").sweep
    assert sweep is not None
    assert sweep.algorithm.widest_rung == 9


def test_a_short_form_and_the_json_schema_agree() -> None:
    text = PROJECT + "  early_stopping: medianstop\n"
    jsonschema.validate(yaml.safe_load(text), project_json_schema())
    sweep = parse_project(text).sweep
    assert sweep is not None
    assert (sweep.algorithm.name, sweep.early_stopping is not None) == ("tpe", True)
    assert (sweep.parallel_trials, sweep.max_failed_trials) == (2, 3)
    one = project_with("sweep.max_trials=1").sweep
    assert one is not None
    assert (one.parallel_trials, one.max_failed_trials) == (1, 1)


@pytest.mark.parametrize("value", [True, 3, 0.5, 1e-05, "adam", [64, 32], "two words"])
def test_a_value_comes_back_from_its_text(value: Any) -> None:
    assert read_text(text_of(value)) == value


def test_a_grid_includes_both_ends() -> None:
    assert ParameterSpec(type="double", min=0.0, max=0.3, step=0.1).grid() == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert ParameterSpec(type="int", min=1, max=6, step=2).grid() == (1, 3, 5)
    space = {"a": ParameterSpec(type="int", min=1, max=2), "b": ParameterSpec(type="categorical", values=("x", "y"))}
    assert grid_points(space, 3) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        ("factors: {", "factor: {", "sweep.parameters.factor", "Did you mean 'factors'?"),
        ("min: 4, max: 64", "min: 0, max: 64, step: 2", "sweep.parameters.factors.min", "greater than or equal to 1"),
        ("min: 4, max: 64", "min: 4, max: 5000", "sweep.parameters.factors.max", "less than or equal to 4096"),
        ("{type: int, min: 4, max: 64, log: true}", "{type: double, min: 4, max: 64}", "sweep.parameters.factors.type",
         "Write type: int"),
        ("{type: int, min: 4, max: 64, log: true}", "{type: categorical, values: [4, many]}",
         "sweep.parameters.factors.values", "does not take"),
        ("metric: ndcg@5", "metric: ndcg@20", "sweep.objective.metric", "Add 20 to evaluation.k"),
    ],
)  # fmt: skip
def test_what_the_model_or_its_evaluation_does_not_have_is_told_with_its_line(
    tmp_path: Any, old: str, new: str, field: str, says: str
) -> None:
    text = PROJECT.replace(old, new).replace("step: 2, log: true", "step: 2")
    file = tmp_path / "slipway.yaml"
    file.write_text(text)
    with pytest.raises(ProjectFileError) as caught:
        check_sweep(parse_project(text, str(file)).located_at(file))
    (problem,) = caught.value.problems
    assert problem.field == field
    assert says in str(problem)
    assert problem.line is not None
    assert (
        new.partition(":")[0] in text.splitlines()[problem.line - 1] or "factors" in text.splitlines()[problem.line - 1]
    )


@pytest.mark.parametrize(
    ("family", "warned"), [("matrix_factorization", False), ("neural_collaborative_filtering", True)]
)
def test_early_stopping_of_a_family_that_reports_no_objective_is_a_warning(family: str, warned: bool) -> None:
    own = 'sweep.parameters={"factors": {"type": "int", "min": 4, "max": 64}}'
    warnings = check_sweep(project_with("sweep.early_stopping=medianstop", f"model.family={family}", own))
    assert any("early stopping will have no effect" in warning for warning in warnings) is warned
