"""What went wrong, as an answer: status, what happened, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from slipway.contracts.errors import RefusedError, ServiceError, SlipwayError, UsageError


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 - it is an answer, not a failure
    """An answer that is no page.

    Args:
        status: HTTP status.
        what: What happened, in one sentence without a final full stop.
        where: What it concerns.
        remedy: What the reader can do.
    """

    status: int
    what: str
    where: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, error: SlipwayError) -> Problem:
        """Returns the answer that an error of Slipway becomes."""
        match error:
            case UsageError():
                status = 404
            case RefusedError():
                status = 409
            case ServiceError():
                status = 503
            case _:
                status = 500
        return cls(status, error.what, error.where, error.remedy)

    def to_dict(self) -> dict[str, str | int | None]:
        """Returns the answer as JSON-ready data, with the names that `-o json` uses for errors."""
        return {"status": self.status, "what": self.what, "where": self.where, "remedy": self.remedy}
