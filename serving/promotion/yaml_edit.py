"""Changes single values of a YAML text and nothing else: comments, order, quotes and fields of others stay to the byte.

A library that reads and writes YAML again would lay the user's file out anew. Here the parser only says where a value
stands (PyYAML's marks); that span of the text is replaced. What comes out is read once more and compared with what was
meant, so that an odd file is refused rather than damaged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

Path = tuple[str, ...]
Scalar = str | int | float | bool


class UneditableError(ValueError):
    """The text is not YAML of one document, or a value stands where it cannot be changed by itself."""


def set_values(text: str, values: Mapping[Path, Scalar]) -> str:
    """Returns the text with every value set; a key that is missing is added at the end of its mapping.

    Args:
        text: One YAML document, a mapping.
        values: New values by their keys from the top: {("spec", "model", "version"): "3"}.

    Raises:
        UneditableError: See the class.
    """
    expected = _load(text)
    if not isinstance(expected, dict):
        raise UneditableError("it holds no fields")
    for path, value in values.items():
        text = _set(text, path, value)
        _set_plain(expected, path, value)
    return _verified(text, expected)


def add_item(text: str, path: Path, item: str) -> str:
    """Returns the text with `item` in the list at `path`; one that holds it already is returned as it is.

    Raises:
        UneditableError: See the class.
    """
    expected = _load(text)
    if not isinstance(expected, dict):
        raise UneditableError("it holds no fields")
    present: Any = expected
    for key in path[:-1]:
        present = present.get(key) if isinstance(present, dict) else None
    items = present.get(path[-1]) if isinstance(present, dict) else None
    if isinstance(items, list) and item in items:
        return text
    if items is not None and not isinstance(items, list):
        raise UneditableError(f"{'.'.join(path)} is no list")
    expected = copy.deepcopy(expected)
    _set_plain(expected, path, [*(items or []), item])
    node = _find(text, path)
    if isinstance(node, yaml.SequenceNode) and node.value:
        if node.flow_style:
            end = _leaf_end(node.value[-1])
            changed = f"{text[:end]}, {_render(item)}{text[end:]}"
        else:
            line = f"{' ' * node.start_mark.column}- {_render(item)}"
            changed = _insert_line(text, _leaf_end(node.value[-1]), line)
    elif node is not None:
        changed = f"{text[: node.start_mark.index].rstrip(' ')} [{_render(item)}]{text[node.end_mark.index :]}"
    else:
        changed = _add_key(text, path, f"[{_render(item)}]")
    return _verified(changed, expected)


def _set(text: str, path: Path, value: Scalar) -> str:
    node = _find(text, path)
    if node is None:
        return _add_key(text, path, _render(value))
    if not isinstance(node, yaml.ScalarNode):
        raise UneditableError(f"{'.'.join(path)} is no single value")
    if yaml.safe_load(text[node.start_mark.index : node.end_mark.index] or "null") == value and node.style not in (
        "|",
        ">",
    ):
        return text
    start, end = node.start_mark.index, node.end_mark.index
    rendered = _render(value, style=node.style)
    if node.style in ("|", ">"):
        rendered += "\n"
    if start == end:  # nothing stood behind the colon
        rendered = " " + rendered
    return text[:start] + rendered + text[end:]


def _find(text: str, path: Path) -> yaml.Node | None:
    """Returns the node at a path; None if a key of it is missing."""
    node = _compose(text)
    for depth, key in enumerate(path):
        if depth and _is_null(node):
            return None
        if not isinstance(node, yaml.MappingNode):
            raise UneditableError(f"{'.'.join(path[:depth]) or 'the document'} holds no fields")
        found = next((value for name, value in node.value if name.value == key), None)
        if found is None:
            return None
        if not node.start_mark.index <= found.start_mark.index <= found.end_mark.index <= node.end_mark.index:
            raise UneditableError(f"{'.'.join(path[: depth + 1])} is an alias of a value elsewhere")
        node = found
    return node


def _add_key(text: str, path: Path, rendered: str) -> str:
    depth = next(depth for depth in range(len(path) - 1, -1, -1) if _find(text, path[:depth]) is not None)
    parent = _find(text, path[:depth])
    rest = path[depth:]
    if depth and parent is not None and _is_null(parent):
        nested = "".join(f"{{{key}: " for key in rest) + rendered + "}" * len(rest)
        return f"{text[: parent.start_mark.index].rstrip(' ')} {nested}{text[parent.end_mark.index :]}"
    if not isinstance(parent, yaml.MappingNode):
        raise UneditableError(f"{'.'.join(path[:depth]) or 'the document'} holds no fields")
    if parent.flow_style or not parent.value:
        nested = f"{rest[0]}: " + "".join(f"{{{key}: " for key in rest[1:]) + rendered + "}" * (len(rest) - 1)
        if not parent.value:
            start, end = parent.start_mark.index, parent.end_mark.index
            return f"{text[:start]}{{{nested}}}{text[end:]}"
        end = _leaf_end(parent.value[-1][1])
        return f"{text[:end]}, {nested}{text[end:]}"
    column = parent.value[0][0].start_mark.column
    lines = [f"{' ' * (column + 2 * level)}{key}:" for level, key in enumerate(rest)]
    return _insert_line(text, _leaf_end(parent.value[-1][1]), "\n".join(lines) + f" {rendered}")


def _is_null(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _leaf_end(node: yaml.Node) -> int:
    """Returns where the last value of a node ends; the mark of a block is behind the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        key, value = node.value[-1]
        # An alias ends elsewhere; its key is where the line is.
        inside = value.start_mark.index >= key.end_mark.index
        return _leaf_end(value) if inside else int(key.end_mark.index)
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _leaf_end(node.value[-1])
    return int(node.end_mark.index)


def _insert_line(text: str, position: int, line: str) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    line = line.replace("\n", newline)
    if position > 0 and text[position - 1] == "\n":  # behind a block scalar, whose end is a line's
        return f"{text[:position]}{line}{newline}{text[position:]}"
    end = text.find("\n", position)
    if end < 0:
        return f"{text}{newline}{line}{newline}"
    return f"{text[: end + 1]}{line}{newline}{text[end + 1 :]}"


def _render(value: Scalar, *, style: str | None = None) -> str:
    """Returns a value as it may stand in a block and in a flow alike."""
    quoted = style if isinstance(value, str) and style in ("'", '"') else None
    text = yaml.safe_dump(
        [value], default_style=quoted, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.strip().removeprefix("[").removesuffix("]")


def _set_plain(document: dict[str, Any], path: Path, value: Any) -> None:
    for key in path[:-1]:
        if document.get(key) is None:
            document[key] = {}
        # A copy, as an anchor's mapping is one object in several places.
        document[key] = dict(document[key])
        document = document[key]
    document[path[-1]] = value


def _compose(text: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UneditableError(_first_line(error)) from error
    return node


def _load(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UneditableError(_first_line(error)) from error


def _verified(text: str, expected: Any) -> str:
    if _load(text) != expected:
        raise UneditableError("its layout does not allow the change of a single value")
    return text


def _first_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1})" if mark is not None else ""
    return f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{place}"
