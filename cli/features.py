"""`slipway features`: the views in Feast, their latest values in the online store, and what is in there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import emit, table_of
from slipway.contracts.errors import ArtifactError, UsageError
from slipway.contracts.project import Project, load_project

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway.contracts.features import ViewSchema

_artifact_option = click.option(
    "--artifact", type=click.Path(path_type=Path), help="Features artifact (default: that of the newest run)."
)
_redis_option = click.option("--redis", "redis_url", help="Online store (default: that of the running plane).")


@click.group(
    epilog="\b\nExamples:\n"
    "  slipway features get user_activity 42 43\n"
    "  slipway features materialize --redis redis://127.0.0.1:6379/0\n"
    "  slipway features apply"
)
def features() -> None:
    """Register, materialize and read features."""


@features.command(epilog="\b\nExample:\n  slipway features apply && cd .slipway/feast && feast feature-views list")
@file_option
@output_option
@_artifact_option
@_redis_option
@click.option(
    "--repository", type=click.Path(path_type=Path), help="Feast repository (default: .slipway/feast of the project)."
)
def apply(file: Path, output: str, artifact: Path | None, redis_url: str | None, repository: Path | None) -> None:
    """Register the views in a Feast repository, where Feast's own SDK reads the online store."""
    from slipway.feature_store.feast_repo import apply_repository

    project = load_project(file)
    result = apply_repository(
        artifact or _newest_artifact(project),
        repository or project.state / "feast",
        project=project.name,
        redis_url=redis_url or _plane(project),
    )
    content = {
        "repository": str(result.repository),
        "project": result.project,
        "views": list(result.views),
        "removed": list(result.removed),
    }
    emit(content, output)


@features.command(epilog="\b\nExample:\n  slipway features materialize --redis redis://127.0.0.1:6379/0")
@file_option
@output_option
@_artifact_option
@_redis_option
def materialize(file: Path, output: str, artifact: Path | None, redis_url: str | None) -> None:
    """Write the latest values of all views to the online store; newer rows there stay."""
    from slipway.feature_store.materialize import materialize as write
    from slipway.feature_store.online import OnlineStore

    project = load_project(file)
    source = artifact or _newest_artifact(project)
    rows = write(source, OnlineStore(_required_store(project, redis_url), project.name))
    content = [{"view": view, "rows": count, "artifact": str(source)} for view, count in rows.items()]
    emit(content, output, table=lambda: table_of(content))


@features.command(epilog="\b\nExample:\n  slipway features get user_activity 42 43 -o json")
@click.argument("view")
@click.argument("ids", nargs=-1, required=True)
@file_option
@output_option
@_artifact_option
@_redis_option
def get(view: str, ids: tuple[str, ...], file: Path, output: str, artifact: Path | None, redis_url: str | None) -> None:
    """Read entities of a VIEW from the online store, with their status and age."""
    from slipway.feature_store.artifact import read_views
    from slipway.feature_store.online import STATUS_NAMES, OnlineStore

    project = load_project(file)
    schema = _view(read_views(artifact or _newest_artifact(project)), view)
    store = OnlineStore(_required_store(project, redis_url), project.name, timeout=2.0)
    values = store.read_values(schema, ids)
    found = store.read(schema, ids)
    content: list[dict[str, Any]] = []
    for row, entity in enumerate(ids):
        status = int(found.status[row])
        age = None if values[row] is None else float(found.age_seconds[row])
        cells = values[row] or dict.fromkeys(feature.name for feature in schema.features)
        content.append({schema.entity: entity, "status": STATUS_NAMES[status], "age_seconds": age, "features": cells})
    emit(content, output, table=_table_of_rows(schema, content))


def _table_of_rows(schema: ViewSchema, content: list[dict[str, Any]]) -> Callable[[], Any]:
    def table() -> Any:
        # One column an entity: views are longer than terminals are wide.
        names = ["status", "age_seconds", *(feature.name for feature in schema.features)]
        rows = [
            {schema.entity: name} | {row[schema.entity]: {**row, **row["features"]}[name] for row in content}
            for name in names
        ]
        return table_of(rows)

    return table


def _view(views: tuple[ViewSchema, ...], name: str) -> ViewSchema:
    for view in views:
        if view.name == name:
            return view
    raise UsageError(f"there is no view {name!r}", remedy=f"There are: {', '.join(view.name for view in views)}.")


def _newest_artifact(project: Project) -> Path:
    found = [path.parent for path in project.state.glob("runs/*/featurize/*/manifest.json")]
    if not found:
        raise ArtifactError(
            "no run has made features yet",
            where=str(project.state / "runs"),
            remedy="Make them with: slipway run --step featurize, or name an artifact with --artifact.",
        )
    return max(found, key=lambda path: (path / "manifest.json").stat().st_mtime)


def _plane(project: Project) -> str | None:
    from slipway.serving.local.observed import read_observed

    observed = read_observed(project.directory)
    return observed.endpoints.get("redis") if observed.is_fresh() else None


def _required_store(project: Project, redis_url: str | None) -> str:
    url = redis_url or _plane(project)
    if url is None:
        raise UsageError(
            "the serving plane does not run", remedy="Start it with: slipway up, or name a Redis with --redis."
        )
    return url
