"""Checks the raw tables and, only if all is well, writes them in canonical form as a `dataset` artifact.

The artifact holds interactions.parquet (sorted by user, timestamp, item), items.parquet and users.parquet where the
project has them (sorted by key), report.json and report.md. When a check fails nothing is overwritten, and the report
lies beside the output as <output>.report.json and <output>.report.md.
"""

# ruff: noqa: S608 - names are quoted by quote(); the database is this process's own

from __future__ import annotations

import importlib.metadata
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slipway.components.progress import Progress
from slipway.components.validate.inspection import failures_of, inspect_entities, inspect_interactions
from slipway.components.validate.report import Report
from slipway.components.validate.rules import entity_columns, entity_names
from slipway.contracts.artifacts import ArtifactDraft, read_manifest, write_artifact
from slipway.contracts.data import DataSpec, ItemsSpec, UsersSpec
from slipway.contracts.errors import DataError, UsageError, ValidationFailedError
from slipway.contracts.files import write_atomically, write_json
from slipway.datasets.interactions import canonical_query
from slipway.datasets.sources import SourceTable, connect, literal, open_source, quote, unreadable

ROW_GROUP = 122_880


class ValidateRequest(BaseModel):
    """What to validate and where the dataset goes.

    `base` is the folder that sources are relative to. `tables`, if given, is the artifact that holds copies of the
    sources, a folder each, and stands for them. `now` decides what lies in the future and what is fresh; it is
    the current time by default. `memory_limit` is that of the database, as DuckDB writes sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataSpec
    base: Path = Path()
    tables: Path | None = None
    output: Path
    now: AwareDatetime | None = None
    memory_limit: str = Field(default="2GB", pattern=r"^\d+(\.\d+)?\s?[KMG]i?B$")
    threads: int | None = Field(default=None, ge=1)


class ValidateResult(BaseModel):
    """What the dataset holds. `metrics` are its counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    fingerprint: str
    first: str
    last: str
    warnings: tuple[str, ...]
    metrics: dict[str, float]


def inspect(request: ValidateRequest, progress: Progress) -> Report:
    """Checks the tables of a project and writes nothing.

    Raises:
        DataError: A source is absent, empty or unreadable, or a column is absent or of a type that can never fit.
        UsageError: A check names a column that is not there.
    """
    with (
        tempfile.TemporaryDirectory(prefix="slipway-validate-") as temporary,
        _connection(request, Path(temporary)) as connection,
    ):
        return _inspect(request, connection, _open_tables(request, connection), progress)


def run(request: ValidateRequest, progress: Progress) -> ValidateResult:
    """Checks the tables of a project and writes the dataset.

    Raises:
        ValidationFailedError: Checks failed; its `failures` say what, where and how many, and the report was written.
        DataError: A source is absent, empty or unreadable, or a column is absent or of a type that can never fit.
        UsageError: A check names a column that is not there.
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".validate-", dir=request.output.parent) as temporary,
        _connection(request, Path(temporary)) as connection,
    ):
        tables = _open_tables(request, connection)
        report = _inspect(request, connection, tables, progress)
        if not report.passed:
            raise _failed(request, report)
        metrics = _write(request, connection, tables, report, progress)
    for suffix in ("json", "md"):
        _beside(request.output, suffix).unlink(missing_ok=True)
    for warning in report.warnings:
        progress.note(warning)
    manifest = read_manifest(request.output, kind="dataset")
    assert manifest.time_range is not None
    return ValidateResult(
        output=request.output,
        fingerprint=manifest.fingerprint,
        first=manifest.time_range[0],
        last=manifest.time_range[1],
        warnings=tuple(report.warnings),
        metrics=metrics,
    )


def _connection(request: ValidateRequest, temporary: Path) -> duckdb.DuckDBPyConnection:
    return connect(memory_limit=request.memory_limit, temporary=temporary, threads=request.threads)


def _open_tables(request: ValidateRequest, connection: duckdb.DuckDBPyConnection) -> dict[str, SourceTable]:
    specs = {"interactions": request.data.interactions, "items": request.data.items, "users": request.data.users}
    tables = {}
    for name, spec in specs.items():
        if spec is not None:
            source, base = (spec.source, request.base) if request.tables is None else (name, request.tables)
            tables[name] = open_source(source, base)
            tables[name].view(connection, name)
    return tables


def _inspect(
    request: ValidateRequest,
    connection: duckdb.DuckDBPyConnection,
    tables: dict[str, SourceTable],
    progress: Progress,
) -> Report:
    data = request.data
    now = (request.now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    for name in (*data.checks.ranges, *data.checks.maximum_null_share):
        if "." in name and name.partition(".")[0] not in set(tables) - {"interactions"}:
            raise UsageError(
                f"{name!r} names no column of a table in this project",
                where="data.checks",
                remedy="Write rating or weight for interactions, items.<column> or users.<column> for the others.",
            )
    reports = []
    for name, table in progress.track(tables.items(), "checking", total=len(tables)):
        spec = data.items if name == "items" else data.users
        try:
            if name == "interactions":
                reports.append(inspect_interactions(connection, table, data.interactions, data.checks, now))
            else:
                assert spec is not None
                reports.append(inspect_entities(connection, table, spec, data.checks))
        except duckdb.Error as error:
            raise _query_failed(error, table) from error
    failures = [failure for table_report in reports for failure in failures_of(table_report)]
    warnings = [warning for table_report in reports for warning in table_report.warnings]
    return Report(passed=not failures, tables=reports, failures=failures, warnings=warnings)


def _failed(request: ValidateRequest, report: Report) -> ValidationFailedError:
    write_json(_beside(request.output, "json"), report.model_dump(mode="json"))
    write_atomically(_beside(request.output, "md"), report.markdown())
    return failed_checks(report, f"The whole report is in {_beside(request.output, 'md')}")


def failed_checks(report: Report, more: str) -> ValidationFailedError:
    """Returns the error for a report with failures; `more` is said after them."""
    table = "\n".join(f"  {row.summary()}" for row in report.failures)
    number = len(report.failures)
    return ValidationFailedError(
        f"{number} check{'s' if number != 1 else ''} failed, nothing was written:\n{table}\n{more}",
        failures=[row.model_dump() for row in report.failures],
        where="data",
        remedy=report.failures[0].remedy,
    )


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f"{output.name}.report.{suffix}")


def _write(
    request: ValidateRequest,
    connection: duckdb.DuckDBPyConnection,
    tables: dict[str, SourceTable],
    report: Report,
    progress: Progress,
) -> dict[str, float]:
    data = request.data
    with write_artifact(request.output, kind="dataset", slipway_version=importlib.metadata.version("slipway")) as draft:
        progress.stage("writing", total=len(tables))
        drop = data.checks.duplicates == "drop"
        query = canonical_query(tables["interactions"], data.interactions, "interactions", drop_duplicates=drop)
        _copy(connection, query, tables["interactions"], draft, "interactions")
        progress.advance()
        for spec in (data.items, data.users):
            if spec is not None:
                name = entity_names(spec)[0]
                _copy(connection, _entity_query(spec, tables[name]), tables[name], draft, name)
                progress.advance()
        metrics, warnings = _summary(connection, draft)
        report.warnings.extend(warnings)
        write_json(draft.path / "report.json", report.model_dump(mode="json"))
        write_atomically(draft.path / "report.md", report.markdown())
        draft.metadata = {"checks": data.checks.model_dump(mode="json"), "counts": metrics}
    return metrics


def _entity_query(spec: ItemsSpec | UsersSpec, table: SourceTable) -> str:
    name, key, _ = entity_names(spec)
    columns = entity_columns(table, spec)
    selected = ", ".join(f"{expression} AS {quote(column)}" for column, expression in columns.items())
    order = ", ".join(quote(column) for column in columns)
    # Repeated keys reach this point only where the project says to drop them.
    return f"SELECT DISTINCT ON ({quote(key)}) * FROM (SELECT {selected} FROM {quote(name)}) ORDER BY {order}"


def _copy(
    connection: duckdb.DuckDBPyConnection, query: str, table: SourceTable, draft: ArtifactDraft, name: str
) -> None:
    file = draft.path / f"{name}.parquet"
    try:
        connection.execute(
            f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
        )
        rows = connection.execute(f"SELECT count(*) FROM read_parquet({literal(str(file))})").fetchone()
        columns = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(str(file))})").fetchall()
    except duckdb.Error as error:
        raise _query_failed(error, table) from error
    assert rows is not None
    draft.rows[file.name] = int(rows[0])
    draft.columns[file.name] = {row[0]: row[1] for row in columns}


def _summary(connection: duckdb.DuckDBPyConnection, draft: ArtifactDraft) -> tuple[dict[str, float], list[str]]:
    interactions = f"read_parquet({literal(str(draft.path / 'interactions.parquet'))})"
    row = connection.execute(
        f'SELECT count(*), count(DISTINCT "user"), count(DISTINCT item), min("timestamp"), max("timestamp") '
        f"FROM {interactions}"
    ).fetchone()
    assert row is not None
    draft.time_range = (row[3].isoformat(), row[4].isoformat())
    metrics = {"interactions": float(row[0]), "users": float(row[1]), "items": float(row[2])}
    warnings = []
    for name, key in (("items", "item"), ("users", "user")):
        file = draft.path / f"{name}.parquet"
        if file.is_file():
            missing = connection.execute(
                f"SELECT count(*) FROM (SELECT DISTINCT {quote(key)} FROM {interactions}) "
                f"ANTI JOIN read_parquet({literal(str(file))}) USING ({quote(key)})"
            ).fetchone()
            assert missing is not None
            if missing[0]:
                warnings.append(f"{missing[0]:,} {name} of the interactions are not in the {name} table")
    return metrics, warnings


def _query_failed(error: duckdb.Error, table: SourceTable) -> DataError:
    if isinstance(error, duckdb.OutOfMemoryException):
        return DataError(
            "the table does not fit into the memory that validation may use",
            where=table.source,
            remedy="Free disk space for temporary files, or raise memory_limit.",
        )
    return unreadable(error, where=table.source)
