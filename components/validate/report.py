"""What was checked and what failed, for machines (report.json) and for people (report.md)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Outcome(BaseModel):
    """One check: how many rows fail it, and how many may.

    A check of the table as a whole (`of_rows` false) counts how much is missing, or 1 if it fails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str
    column: str
    requirement: str
    count: int
    allowed: int
    of_rows: bool = True
    examples: tuple[str, ...] = ()
    files: dict[str, int] = {}
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether no more rows fail than may."""
        return self.count <= self.allowed


class TableReport(BaseModel):
    """One table: its shape and the outcome of each check. `columns` maps our names to the source's types."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    columns: dict[str, str]
    rows: int
    first: str | None = None
    last: str | None = None
    checks: list[Outcome]
    warnings: list[str] = []


class Failure(BaseModel):
    """A failed check, flat: what, where, how many, an example, and what to do.

    `of` is the number of rows that were checked, null for a check of the table as a whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    check: str
    column: str
    count: int
    of: int | None
    example: str
    where: str
    remedy: str

    def summary(self) -> str:
        """Returns the failure as one line."""
        if self.of is None:
            return f"{self.check}, {self.column}: {self.example} in {self.where}"
        example = f", such as {self.example}" if self.example else ""
        return f"{self.check}, {self.column}: {self.count:,} of {self.of:,} rows in {self.where}{example}"

    def cells(self) -> str:
        """Returns the failure as a row of a Markdown table."""
        checked = "-" if self.of is None else f"{self.of:,}"
        return (
            f"| {self.table} | {self.check} | {self.column} | {self.count:,} | {checked} "
            f"| {_cell(self.example)} | {_cell(self.where)} |"
        )


class Report(BaseModel):
    """The whole inspection."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    passed: bool
    tables: list[TableReport]
    failures: list[Failure]
    warnings: list[str]

    def markdown(self) -> str:
        """Returns the report as a page."""
        verdict = "All checks passed." if self.passed else f"**{_plural(len(self.failures), 'check')} failed.**"
        lines = ["# Data validation", "", verdict, ""]
        if self.failures:
            lines += ["| table | check | column | rows | of | example | where |", "|---|---|---|---:|---:|---|---|"]
            lines += [row.cells() for row in self.failures]
            lines += ["", *(f"- {row.check} of {row.column}: {row.remedy}" for row in self.failures), ""]
        if self.warnings:
            lines += ["## Worth knowing", "", *(f"- {warning}" for warning in self.warnings), ""]
        for table in self.tables:
            span = f", {table.first} to {table.last} (UTC)" if table.first else ""
            lines += [f"## {table.name}", "", f"{table.source}: {table.rows:,} rows{span}", ""]
            lines += ["| check | column | requirement | failing rows | allowed | |", "|---|---|---|---:|---:|---|"]
            lines += [
                f"| {outcome.check} | {outcome.column} | {outcome.requirement} | {outcome.count:,} "
                f"| {outcome.allowed:,} | {'ok' if outcome.passed else '**failed**'} |"
                for outcome in table.checks
            ]
            lines.append("")
        return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
