"""`slipway predict`: batch prediction from any registered bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import console, emit, note, table_of
from slipway.contracts.errors import UsageError
from slipway.contracts.project import Project, load_project

if TYPE_CHECKING:
    from rich.table import Table

    from slipway.components.batch_predict.step import BatchPredictResult
    from slipway.components.progress import Progress


@click.command(
    epilog="\b\nExamples:\n"
    "  slipway predict --input users.parquet --output top10.parquet\n"
    "  slipway predict --input users.csv --output top50.csv -k 50 --model films@champion --include-seen\n"
    "  slipway predict --input users.parquet --candidates new-films.csv --output launch.parquet\n"
    "  slipway predict --input pairs.parquet --output scores.parquet --model films/3    (user, item) pairs: scores"
)
@file_option
@output_option
@click.option(
    "--input",
    "input_",
    required=True,
    type=click.Path(path_type=Path),
    help="Table of users, or of (user, item) pairs.",
)
@click.option("--output", "target", required=True, type=click.Path(path_type=Path), help="Where the answers go.")
@click.option(
    "--candidates", type=click.Path(path_type=Path), help="Table of items, or of (user, item), to choose from."
)
@click.option("--model", "model_name", metavar="NAME@ALIAS|NAME/VERSION", help="By default the project's champion.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle's folder, instead of --model.")
@click.option("-k", "--k", "k", type=click.IntRange(1, 10_000), help="Items for each user (default: serving.k).")
@click.option("--exclude-seen/--include-seen", default=True, show_default=True, help="Leave out what a user has seen.")
@click.option(
    "--features",
    "features_from",
    type=click.Choice(["auto", "online", "artifact"]),
    default="auto",
    show_default=True,
    help="auto: the online store while the serving plane runs, else the artifact.",
)
def predict(
    file: Path,
    output: str,
    input_: Path,
    target: Path,
    candidates: Path | None,
    model_name: str | None,
    bundle: Path | None,
    k: int | None,
    exclude_seen: bool,
    features_from: str,
) -> None:
    """Rank items for a table of users, or score given (user, item) pairs.

    The table is Parquet or CSV, of any size, with a column `user` (or the name that the project file gives it); with a
    column `item` too, its pairs are scored. The answers are what serving and evaluation give, item for item.
    """
    from slipway.cli.versions import bundle_of, find_version
    from slipway.components.batch_predict.step import BatchPredictRequest, run

    if bundle is not None and model_name is not None:
        raise click.UsageError("give --model or --bundle, not both")
    project = load_project(file)
    label = str(bundle)
    if bundle is None:
        version = find_version(project, model_name)
        bundle, label = bundle_of(project, version), version.label
    redis_url = _online_store(project) if features_from != "artifact" else None
    if features_from == "online" and redis_url is None:
        raise UsageError(
            "the serving plane does not run", remedy="Start it with: slipway up, or use --features artifact"
        )
    kept_features = bundle / "features"
    columns = project.data.interactions.columns
    request = BatchPredictRequest(
        bundle=bundle,
        input=str(input_.absolute()),
        output=target,
        candidates=str(candidates.absolute()) if candidates is not None else None,
        k=k or project.serving.k,
        exclude_seen=exclude_seen,
        features=kept_features if kept_features.is_dir() else None,
        redis_url=redis_url,
        feature_project=project.name,
        project_directory=project.directory,
        user_columns=tuple(dict.fromkeys(("user", columns.user))),
        item_columns=tuple(dict.fromkeys(("item", columns.item))),
    )
    with _shown() as progress:
        result = run(request, progress)
    emit({"model": label, **result.model_dump(mode="json")}, output, table=lambda: _table(label, result))
    if result.unknown_candidates:
        note(f"warning: the model does not know {result.unknown_candidates:,} of the candidates; they were left out")
    if result.users_without_features:
        note(f"warning: {result.users_without_features:,} feature rows were missing; defaults stood in")


def _online_store(project: Project) -> str | None:
    from slipway.serving.local.observed import read_observed

    observed = read_observed(project.directory)
    return observed.endpoints.get("redis") if observed.is_fresh() else None


def _table(label: str, result: BatchPredictResult) -> Table:
    fallbacks = ", ".join(f"{count:,} {reason}" for reason, count in result.fallbacks.items()) or "none"
    rows = [
        ("model", label),
        ("pairs scored" if result.kind == "pairs" else "users", f"{result.inputs:,}"),
        ("rows written", f"{result.rows:,}"),
        ("fallbacks", fallbacks),
        ("features", result.features),
        ("seconds", f"{result.seconds:.1f}"),
        ("peak memory", f"{result.peak_memory_bytes / 1e6:,.0f} MB"),
        ("output", str(result.output)),
    ]
    return table_of([{"predict": name, "": value} for name, value in rows])


@contextmanager
def _shown() -> Iterator[Progress]:
    """Shows a bar on a terminal, a line now and then elsewhere; both on stderr."""
    from slipway.components.progress import LogProgress, Progress

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield LogProgress()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    class Bar(Progress):
        def _changed(self, *, force: bool) -> None:  # noqa: ARG002
            bars.update(task, description=self.description, total=self.total, completed=self.completed)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=screen, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield Bar()
