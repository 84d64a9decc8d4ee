"""Parameters of a family: typed, with defaults, unknown names refused with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from slipway.contracts.errors import UsageError


class Parameters(BaseModel):
    """Base of a family's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, family: str) -> Self:
        """Checks values from a project file.

        Raises:
            UsageError: A name is unknown, or a value is of the wrong type or out of range; all problems at once.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            known = list(cls.model_fields)
            problems = [_describe(problem["loc"], problem["type"], problem["msg"], known) for problem in error.errors()]
            raise UsageError(
                "; ".join(problems),
                where=f"model.parameters of {family}",
                remedy=f"Known parameters: {', '.join(known) or 'none'}.",
            ) from error


def _describe(location: tuple[int | str, ...], kind: str, message: str, known: list[str]) -> str:
    name = str(location[0]) if location else "parameters"
    if kind != "extra_forbidden":
        return f"{name}: {message[:1].lower()}{message[1:]}"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"{name!r} is no parameter of it" + (f"; did you mean {nearest[0]!r}?" if nearest else "")
