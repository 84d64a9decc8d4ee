"""Reading a project file, so that each mistake is told with its line, its field and what would mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from slipway.contracts.errors import FieldProblem, ProjectFileError, UsageError
from slipway.contracts.project.schema import Project

PROJECT_FILE = "slipway.yaml"

Location = tuple[int | str, ...]


def load_project(path: Path, overrides: Sequence[str] = ()) -> Project:
    """Reads a project file.

    Args:
        path: The file, or the folder that holds a `slipway.yaml`.
        overrides: `field.of.part=value` texts that replace or add fields; values are read as YAML.

    Raises:
        UsageError: The file is absent or unreadable, or an override has no `=`.
        ProjectFileError: The file does not fit the schema; every problem is in it.
    """
    file = path / PROJECT_FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            "no project file here",
            where=str(file),
            remedy="Name one with -f, or make one with: slipway init films",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the project file cannot be read ({error})", where=str(file)) from error
    return parse_project(text, str(file), overrides).located_at(file)


def parse_project(text: str, name: str = PROJECT_FILE, overrides: Sequence[str] = ()) -> Project:
    """Reads a project from text; `name` stands in messages. Raises as `load_project` does."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = FieldProblem(
            field="(file)",
            what=f"this is not YAML: {getattr(error, 'problem', None) or error}",
            remedy="Check indentation, colons and quotes around this line",
            line=mark.line + 1 if mark else None,
        )
        raise ProjectFileError(name, [problem]) from None
    lines = dict(_lines(root)) if root is not None else {}
    duplicates = list(_duplicate_keys(root)) if root is not None else []
    if duplicates:
        raise ProjectFileError(name, duplicates)
    if not isinstance(content, dict):
        remedy = "Start from an example: slipway init films"
        raise ProjectFileError(name, [FieldProblem("(file)", "it holds no fields", remedy, 1)])
    for override in overrides:
        _apply_override(content, override)
    try:
        return Project.model_validate(content)
    except ValidationError as error:
        problems = [_problem(details, lines) for details in error.errors(include_url=False)]
        raise ProjectFileError(name, sorted(problems, key=lambda problem: problem.line or 0)) from None


def project_json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a project file, for editors."""
    schema = Project.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Slipway project file"} | schema


def _apply_override(content: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    if not separator or not path.strip():
        raise UsageError(f"--set {override!r} has no value", remedy="Write it as --set model.parameters.factors=64")
    *parents, last = path.strip().split(".")
    target: Any = content
    for key in parents:
        child = target.get(key) if isinstance(target, dict) else None
        if child is None and isinstance(target, dict):
            child = target[key] = {}
        target = child
    if not isinstance(target, dict):
        raise UsageError(f"--set {override!r}: {'.'.join(parents)} holds no fields", remedy="Name a field of a part.")
    try:
        target[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        target[last] = value


def _lines(node: yaml.Node, location: Location = ()) -> Iterator[tuple[Location, int]]:
    yield location, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*location, str(key.value))
            yield from ((place, line) for place, line in _lines(value, here) if place != here)
            yield here, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*location, index))


def _duplicate_keys(node: yaml.Node, location: Location = ()) -> Iterator[FieldProblem]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                field = _field((*location, name))
                yield FieldProblem(field, "this field stands twice", "Keep one of them", key.start_mark.line + 1)
            seen.add(name)
            yield from _duplicate_keys(value, (*location, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicate_keys(value, (*location, index))


def _problem(details: ErrorDetails, lines: Mapping[Location, int]) -> FieldProblem:
    location = details["loc"]
    kind = details["type"]
    known = next((location[:size] for size in range(len(location), -1, -1) if location[:size] in lines), ())
    line = lines.get(known)
    field = _field(location)
    message = details["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        names = _names_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), names, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(names)}" if names else "Remove it"
        return FieldProblem(field, "there is no such field", remedy, line)
    if kind == "missing":
        return FieldProblem(field, "this field is required", f"Add {location[-1]!r} here", line)
    expected = (details.get("ctx") or {}).get("expected")
    remedy = f"Write one of {expected}" if expected else "See: slipway schema"
    shown = details.get("input")
    if isinstance(shown, str | int | float) and str(shown) not in message:
        message = f"{message} (it is {shown!r})"
    return FieldProblem(field, message[:1].lower() + message[1:], remedy, line)


def _names_at(location: Location) -> list[str]:
    """Returns the names of the fields that the schema knows at a place, as a user writes them."""
    model: Any = Project
    for key in location:
        if isinstance(key, int):
            continue
        fields = getattr(model, "model_fields", {})
        found = next((info for name, info in fields.items() if key in (name, info.alias)), None)
        model = _model_in(found.annotation) if found is not None else model
    return [info.alias or name for name, info in getattr(model, "model_fields", {}).items()]


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in getattr(annotation, "__args__", ()) if (model := _model_in(part)) is not None), None)


def _field(location: Location) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location)
    return text.removeprefix(".") or "(file)"
