"""The audit file of a model in an environment: who brought which version there, when and why, and who approved it.

A line of JSON an event, in `audit.jsonl` beside the manifest, added by the very commit that changes the manifest: it is
reviewed, merged, reverted and cloned with it, survives squashed merges (which trailers do not) and needs no extra push
(which Git notes do). Each line holds the hash of the line before it, so a line that was changed or taken out is seen,
and two proposals that were made side by side cannot both be merged unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.errors import PromotionError
from slipway.contracts.files import sha256_of

AUDIT = "audit.jsonl"


class Version(BaseModel):
    """A version as Git names it. `digest` is the sha256 of the bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    digest: str
    uri: str


class AuditLine(BaseModel):
    """One event. `previous` is the sha256 of the line before, "" for the first; `at` is in UTC.

    `forced` names the rules that were overridden, for which `reason` is then required. `by` is whom git says the
    committer is; `login` is whom the host's token belongs to, where there was one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["promote", "revert", "approve"]
    proposal: str
    model: str
    environment: str
    wanted: Version
    replaces: Version | None = None
    at: datetime
    by: str
    login: str | None = None
    reason: str | None = None
    forced: tuple[str, ...] = ()
    gates: tuple[str, ...] = Field(default=(), description="Gates that were checked, each with its value.")
    previous: str = ""

    def text(self) -> str:
        """Returns the line as it is written."""
        return self.model_dump_json(exclude_defaults=True)


class Audit:
    """The lines of an audit file, in order.

    Raises:
        PromotionError: A line cannot be read, or was changed, taken out or put in between.
    """

    def __init__(self, text: str, where: str) -> None:
        # Not splitlines(), which takes more than a line feed for the end of a line.
        self.raw = [line for line in text.split("\n") if line]
        lines = []
        previous = ""
        for number, line in enumerate(self.raw, start=1):
            try:
                entry = AuditLine.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                raise _altered(f"line {number} cannot be read: {first['msg']}", where) from None
            if entry.previous != previous:
                raise _altered(f"line {number} does not follow the line before it", where)
            previous = sha256_of(line)
            lines.append(entry)
        self.lines: Sequence[AuditLine] = tuple(lines)

    def adding(self, line: AuditLine) -> str:
        """Returns the file's text with one more line."""
        chained = line.model_copy(update={"previous": sha256_of(self.raw[-1]) if self.raw else ""})
        return "".join(f"{text}\n" for text in (*self.raw, chained.text()))

    def starts_with(self, earlier: Audit) -> bool:
        """Returns whether nothing of an earlier state was changed or taken out."""
        return self.raw[: len(earlier.raw)] == earlier.raw

    def has(self, proposal: str) -> bool:
        """Returns whether a proposal has been merged into this file."""
        return any(line.proposal == proposal for line in self.lines)

    def next_proposal(self, stem: str) -> str:
        """Returns the name of the next proposal of a kind: `stem`, or `stem-2` after it was merged once."""
        merged = {line.proposal for line in self.lines}
        number, name = 1, stem
        while name in merged:
            number += 1
            name = f"{stem}-{number}"
        return name

    def promoted(self, digest: str) -> AuditLine | None:
        """Returns the event that brought a version here; None if it never came, or was taken back since."""
        found: AuditLine | None = None
        for line in self.lines:
            if line.action in ("promote", "revert") and line.wanted.digest == digest:
                found = line
            elif line.action == "revert" and line.replaces is not None and line.replaces.digest == digest:
                found = None
        return found

    def author(self, proposal: str) -> AuditLine | None:
        """Returns the event by which a proposal was made."""
        return next((line for line in self.lines if line.proposal == proposal and line.action != "approve"), None)

    def approvals(self, proposal: str) -> list[AuditLine]:
        """Returns the approvals of a proposal by different people, none of whom made it."""
        author = self.author(proposal)
        distinct: list[AuditLine] = []
        for line in self.lines:
            if line.proposal != proposal or line.action != "approve":
                continue
            others = [*distinct, *([author] if author is not None else [])]
            if author is not None and line.wanted == author.wanted and not any(same_person(line, o) for o in others):
                distinct.append(line)
        return distinct


def same_person(one: AuditLine, other: AuditLine) -> bool:
    """Returns whether two events are one person's: the same login, or the same address."""
    logins = one.login is not None and one.login == other.login
    return logins or _address(one.by) == _address(other.by)


def _address(by: str) -> str:
    return by.rpartition("<")[2].rstrip(">").strip().lower()


def _altered(what: str, where: str) -> PromotionError:
    return PromotionError(
        f"the audit file was changed by hand: {what}", where=where, remedy=f"Restore it: git log -p -- {where}"
    )
