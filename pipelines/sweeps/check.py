"""What a sweep asks for that its model or its evaluation does not have, told with line, field and remedy."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from slipway.contracts.errors import FieldProblem, ProjectFileError
from slipway.contracts.evaluation import MetricName
from slipway.contracts.project import Project
from slipway.contracts.project.sweep import ParameterSpec
from slipway.models.families import load_family
from slipway.models.interface import Recommender
from slipway.models.parameters import Parameters
from slipway.pipelines.sweeps.experiment import sweep_of


def check_sweep(project: Project) -> list[str]:
    """Checks the sweep of a project against its evaluation and its model's family.

    Returns:
        Warnings: what will have no effect.

    Raises:
        ProjectFileError: Something does not fit; every problem is in it.
        UsageError: There is no sweep, or no such family.
    """
    sweep = sweep_of(project)
    found = [*_objective(project)]
    family = load_family(project.model.family, project.directory)
    known = parameters_of(family)
    for name, spec in sweep.parameters.items():
        if known is not None:
            found += _parameter(name, spec, known, project.model.family)
    if found:
        lines = _lines(project.path)
        problems = [
            FieldProblem(".".join(where), what, remedy, _line_of(lines, where)) for where, what, remedy in found
        ]
        raise ProjectFileError(str(project.path), sorted(problems, key=lambda problem: problem.line or 0))
    warnings = []
    if known is None:
        warnings.append(f"the parameters of {project.model.family} are its own: the first trials will show if they fit")
    if sweep.early_stopping is not None and project.model.family in _WITHOUT_CURVE:
        warnings.append(
            f"early stopping will have no effect: {project.model.family} reports no {sweep.objective.metric} "
            "after each epoch"
        )
    return warnings


# The first has no epochs; the second tells only its loss, and losses of different regularisation cannot be compared.
_WITHOUT_CURVE = frozenset({"popularity", "neural_collaborative_filtering"})

_Found = tuple[tuple[str, ...], str, str]


def parameters_of(family: type[Recommender]) -> type[Parameters] | None:
    """Returns the parameters that a family checks its values with; None if its module names none, or several."""
    module = sys.modules[family.__module__]
    named = {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Parameters) and value is not Parameters
    }
    if not named and getattr(module, "Parameters", None) is Parameters:
        return Parameters
    return named.pop() if len(named) == 1 else None


def _objective(project: Project) -> Iterator[_Found]:
    metric = sweep_of(project).objective.metric
    k = MetricName.parse(metric).k
    if k is not None and k not in project.evaluation.k:
        measured = ", ".join(str(number) for number in project.evaluation.k)
        yield (
            ("sweep", "objective", "metric"),
            f"{metric} is not measured: the evaluation cuts lists at {measured}",
            f"Add {k} to evaluation.k, or take another metric",
        )


def _parameter(name: str, spec: ParameterSpec, known: type[Parameters], family: str) -> Iterator[_Found]:
    where = ("sweep", "parameters", name)
    fields = list(known.model_fields)
    if name not in fields:
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.4)
        hint = f"Did you mean {close[0]!r}?" if close else f"It has: {', '.join(fields) or 'none'}"
        yield where, f"{family} has no such parameter", hint
        return
    whole = spec.type == "int"
    ends = {"min": spec.min, "max": spec.max} if not spec.values else dict(enumerate(spec.values))
    for end, value in ends.items():
        tried: Any = int(value) if whole and isinstance(value, float) else value
        try:
            known.model_validate({name: tried})
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            label = f"{end} is {tried!r}" if isinstance(end, str) else f"the value {tried!r}"
            yield (
                (*where, end) if isinstance(end, str) else (*where, "values"),
                f"{label}, which {family} does not take: {message[:1].lower()}{message[1:]}",
                "Change the range",
            )
    if spec.type == "double" and not spec.values:
        middle = ((spec.min or 0.0) + (spec.max or 0.0)) / 2 + 1e-3
        try:
            known.model_validate({name: middle})
        except ValidationError as error:
            if error.errors()[0]["type"] == "int_from_float":
                yield (*where, "type"), f"{family} takes whole numbers here", "Write type: int"


def _lines(path: Path) -> dict[tuple[str, ...], int]:
    """Returns the line of each field; empty if the file cannot be read any more."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return {}

    def walk(node: yaml.Node | None, here: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*here, str(key.value))
                yield place, key.start_mark.line + 1
                yield from walk(value, place)

    return dict(walk(root, ()))


def _line_of(lines: dict[tuple[str, ...], int], where: tuple[str, ...]) -> int | None:
    return next((lines[where[:size]] for size in range(len(where), 0, -1) if where[:size] in lines), None)
