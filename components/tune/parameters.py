"""Values of parameters, between a search algorithm, which has text, and a family, which has numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from slipway.contracts.errors import UsageError
from slipway.contracts.project.sweep import read_text

REQUEST_VARIABLE = "SLIPWAY_TRIAL_REQUEST"
"""Holds the request of a trial but for its parameters, as JSON."""
PARAMETERS_VARIABLE = "SLIPWAY_TRIAL_PARAMETERS"
"""Holds {parameter: value as text}, as JSON."""
FOLDER_VARIABLE = "SLIPWAY_TRIAL_FOLDER"
"""Names the folder in which a trial works and leaves what it found."""
LIFELINE_VARIABLE = "SLIPWAY_TRIAL_LIFELINE"
"""Names an inherited pipe that closes when the process that started the trial is gone."""

REASON_VARIABLE = "SLIPWAY_TRIAL_REASON_FILE"
"""Names the file into which a failed trial writes why: a pod's termination message."""

ParameterType = Literal["double", "int", "categorical", "discrete"]


def typed(values: Mapping[str, str], types: Mapping[str, ParameterType]) -> dict[str, Any]:
    """Returns the values that texts stand for.

    Args:
        values: Parameter -> text, as a search algorithm gives it.
        types: Parameter -> its type in the search space.

    Raises:
        UsageError: A parameter has no value or no type, or its text is not of its type.
    """
    strangers = sorted(set(values) ^ set(types))
    if strangers:
        raise UsageError(
            f"values and types of parameters do not match: {', '.join(strangers)}",
            where="parameters",
            remedy="Give each parameter of the search space one value.",
        )
    return {name: _value(name, text, types[name]) for name, text in values.items()}


def _value(name: str, text: str, kind: ParameterType) -> Any:
    try:
        if kind == "double":
            return float(text)
        if kind == "int":
            # Some of Katib's algorithms write whole numbers as 32.0.
            number = float(text)
            if number != int(number):
                raise ValueError
            return int(number)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no {kind}", where=f"parameters.{name}") from None
    return read_text(text)
