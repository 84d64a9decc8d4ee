"""Conditions of compiled pipelines: the part of the Common Expression Language that KFP's compiler writes.

`inputs.parameter_values['x'] == 'true' && !(int(inputs.parameter_values['n']) > 3)`: comparisons of inputs and
constants, joined by &&, || and !. Anything else is refused, so that nothing is taken for true by accident.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<input>inputs\.parameter_values\[\s*['\"](?P<name>[^'\"]+)['\"]\s*\])|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<word>true|false|int|double|string)\b"
    r"|(?P<mark>==|!=|>=|<=|&&|\|\||[><!()]))"
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CASTS: dict[str, Callable[[Any], Any]] = {"int": int, "double": float, "string": str}


def holds(condition: str, parameters: Mapping[str, Any]) -> bool:
    """Returns whether a condition holds for the parameters of its task.

    Raises:
        ValueError: It is written in a way that is not understood here.
        KeyError: It names a parameter that there is not.
    """
    reader = _Reader(condition, parameters)
    value = reader.disjunction()
    reader.expect_end()
    if not isinstance(value, bool):
        raise ValueError(f"not a condition: {condition}")
    return value


class _Reader:
    def __init__(self, text: str, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._tokens: list[tuple[str, str]] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"not understood: {text[position:]}")
            kind = str(match.lastgroup if match["input"] is None else "input")
            self._tokens.append((kind, match["name"] if kind == "input" else match[kind]))
            position = match.end()

    def disjunction(self) -> Any:
        value = self._conjunction()
        while self._take("||"):
            other = self._conjunction()
            value = value or other
        return value

    def expect_end(self) -> None:
        if self._tokens:
            raise ValueError(f"not understood: {self._tokens[0][1]}")

    def _conjunction(self) -> Any:
        value = self._negation()
        while self._take("&&"):
            other = self._negation()
            value = value and other
        return value

    def _negation(self) -> Any:
        if self._take("!"):
            return not self._negation()
        left = self._operand()
        for mark, compare in _COMPARISONS.items():
            if self._take(mark):
                return compare(left, self._operand())
        return left

    def _operand(self) -> Any:
        if self._take("("):
            value = self.disjunction()
            self._close()
            return value
        if not self._tokens:
            raise ValueError("it ends too early")
        kind, text = self._tokens.pop(0)
        if kind == "input":
            return self._parameters[text]
        if kind == "number":
            return float(text) if "." in text else int(text)
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if text in ("true", "false"):
            return text == "true"
        if text in _CASTS and self._take("("):
            value = _CASTS[text](self.disjunction())
            self._close()
            return value
        raise ValueError(f"not understood: {text}")

    def _close(self) -> None:
        if not self._take(")"):
            raise ValueError("a bracket is not closed")

    def _take(self, mark: str) -> bool:
        if self._tokens and self._tokens[0] == ("mark", mark):
            self._tokens.pop(0)
            return True
        return False
