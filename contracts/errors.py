"""One tree of exceptions, each of which says what happened, where, and what to do.

SlipwayError                 exit code 1
├── UsageError               exit code 2: the command or the project file is wrong
│   └── ProjectFileError         every problem of a slipway.yaml, with line, field and remedy
├── DataError                the data cannot be used
│   └── ValidationFailedError    checks failed; the report is attached
├── ArtifactError            an artifact is missing, half-written or altered
├── BundleError              a model bundle is corrupt, altered or from another format
├── StepError                a pipeline step failed; names the step and its log
├── ServiceError             a server that is needed does not answer
├── EnvironmentProblemError  something is missing on this machine: a program, a port, space, an extra
├── LockHeldError            another process holds the lock; says who
└── RefusedError             exit code 3: a gate refused, or a rollout went back
    ├── GateError                a gate of the project file was not met
    ├── PromotionError           a promotion was refused: its order, a changed folder, an approval of one's own
    └── RolloutError             a rollout was refused or went back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class SlipwayError(Exception):
    """Base of every error that Slipway raises on purpose.

    Args:
        what: What happened, in one sentence without a final full stop.
        where: File, field, step or address that it concerns.
        remedy: What the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.remedy is None:
            return text
        # What was listed line by line gets its remedy on a line of its own.
        return f"{text.rstrip()}\n{self.remedy}" if text.endswith("\n") else f"{text.rstrip('.')}. {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the error as plain data, for `-o json` and for error.json of a step."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class UsageError(SlipwayError):
    """The command line or an input file of the user is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class FieldProblem:
    """One mistake in a project file: where it is and what would mend it."""

    field: str
    what: str
    remedy: str
    line: int | None = None

    def __str__(self) -> str:
        position = f"line {self.line}: " if self.line else ""
        return f"{position}{self.field}: {self.what}. {self.remedy}"


class ProjectFileError(UsageError):
    """A project file does not fit its schema; `problems` holds every mistake found."""

    def __init__(self, path: str, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(f"  {problem}" for problem in self.problems),
            where=f"{path} has {len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}",
        )

    def __str__(self) -> str:
        return f"{self.where}:\n{self.what}"

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"problems": [vars(problem) for problem in self.problems]}


class DataError(SlipwayError):
    """The data is absent, unreadable or of another shape than the project file says."""


class ValidationFailedError(DataError):
    """Checks on the data failed. `failures` are rows of {check, column, count, example, ...}."""

    def __init__(
        self, what: str, *, failures: Sequence[dict[str, Any]] = (), where: str | None = None, remedy: str | None = None
    ) -> None:
        self.failures = tuple(failures)
        super().__init__(what, where=where, remedy=remedy)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"failures": list(self.failures)}


class ArtifactError(SlipwayError):
    """An artifact directory is missing, half-written, or its content does not match its manifest."""


class BundleError(SlipwayError):
    """A model bundle must not be loaded: a file is missing or altered, or the format is unknown."""


class StepError(SlipwayError):
    """A pipeline step failed. `cause` is the error that the step itself reported, if any."""

    def __init__(
        self,
        what: str,
        *,
        step: str,
        log: str | None = None,
        remedy: str | None = None,
        cause: dict[str, Any] | None = None,
        exit_code: int = 1,
    ) -> None:
        self.step = step
        self.log = log
        self.cause = cause
        super().__init__(what, where=f"step {step}", remedy=remedy)
        self.exit_code = exit_code

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.log is None else f"{text} Log: {self.log}"

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"step": self.step, "log": self.log, "cause": self.cause}


class ServiceError(SlipwayError):
    """A server that the command needs (Redis, Prometheus, MLflow, a predictor) does not answer."""


class EnvironmentProblemError(SlipwayError):
    """This machine lacks something: a program, an optional extra, a free port, disk space."""


class LockHeldError(SlipwayError):
    """Another live process holds the lock."""


class RefusedError(SlipwayError):
    """The work was done and the answer is no."""

    exit_code = 3


class GateError(RefusedError):
    """A gate of the project file was not met."""


class PromotionError(RefusedError):
    """A promotion was refused, and nothing was pushed."""


class RolloutError(RefusedError):
    """A rollout was refused before its start, or went back."""


def require_extra(package: str, extra: str) -> EnvironmentProblemError:
    """Returns the error to raise when an optional package is not installed."""
    return EnvironmentProblemError(
        f"the package {package!r} is not installed",
        remedy=f"Install it with: pip install 'slipway[{extra}]'",
    )
