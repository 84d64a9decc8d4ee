"""Writes charts/slipway/README.md from the comments of values.yaml: `python tools/chart_readme.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[1] / "charts" / "slipway"


def documented_values(text: str) -> Iterator[tuple[str, Any, str]]:
    """Yields (key with dots, default, comment above it) of every value that has a comment, in the order of the file.

    A map whose keys are documented one by one has no line of its own; any other value without a comment is a mistake.
    """
    lines = text.splitlines()

    def comment_above(line: int) -> str:
        words: list[str] = []
        while line > 0 and lines[line - 1].lstrip().startswith("# "):
            line -= 1
            words.insert(0, lines[line].strip()[2:])
        return " ".join(words)

    def walk(node: yaml.MappingNode, path: tuple[str, ...]) -> Iterator[tuple[str, Any, str]]:
        for key, value in node.value:
            here = (*path, key.value)
            comment = comment_above(key.start_mark.line)
            if comment:
                yield ".".join(here), yaml.safe_load(yaml.serialize(value)), comment
            elif isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, here)
            else:
                raise ValueError(f"values.yaml, line {key.start_mark.line + 1}: {'.'.join(here)} has no comment")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, ())


def readme() -> str:
    """Returns the README."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for key, default, comment in documented_values((CHART / "values.yaml").read_text()):
        rows.append(f"| `{key}` | `{json.dumps(default)}` | {comment} |")
    head = (CHART / "README.md.head").read_text()
    return head + "\n## Values\n\n" + "\n".join(rows) + "\n"


def main() -> int:
    """Returns 1 where --check finds the README out of date."""
    target, text = CHART / "README.md", readme()
    if "--check" in sys.argv[1:]:
        current = target.exists() and target.read_text() == text
        if not current:
            print(f"error: {target}: out of date. Run: python tools/chart_readme.py", file=sys.stderr)
        return 0 if current else 1
    target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
