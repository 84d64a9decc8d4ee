"""`slipway clean`: old runs, cache entries, bundles and logs, shown first and removed only when asked."""

from __future__ import annotations

from pathlib import Path

import click

from slipway.cli.options import file_option, output_option, yes_option
from slipway.cli.output import emit, note, table_of
from slipway.contracts.errors import UsageError


@click.command()
@file_option
@output_option
@yes_option
@click.option("--dry-run", is_flag=True, help="Only show; this is what happens without --yes too.")
@click.option("--keep", default=5, show_default=True, type=click.IntRange(min=0), help="Newest runs to leave.")
@click.option("--older-than", default="0s", show_default=True, metavar="AGE", help="Leave what is younger: 12h, 30d.")
def clean(file: Path, output: str, keep: int, older_than: str, *, yes: bool, dry_run: bool) -> None:
    """Show old state of the project, and remove it with --yes.

    Old are: runs and cache entries beyond the newest, bundles that are neither registered nor served, rotated logs,
    and what killed processes left half-written. What serves, is registered, or is referred to by a rollout stays.

    \b
    Examples:
      slipway clean                          show what would go
      slipway clean --keep 3 --older-than 7d
      slipway clean --yes
    """
    from slipway.cli.old_state import bytes_freed, find_old_state, remove
    from slipway.contracts.durations import describe_seconds
    from slipway.contracts.files import exclusive_lock
    from slipway.contracts.project import load_project

    project = load_project(file)
    age = _seconds(older_than)
    if not project.state.is_dir():
        note(f"nothing to remove: there is no {project.state}")
        emit([], output, table="")
        return
    removes = yes and not dry_run
    lock = project.state / "run.lock"
    with exclusive_lock(lock, holder="slipway clean", remedy="Wait until the run has ended, then run it again."):
        old = find_old_state(project, keep=keep, older_than=age)
        freed = bytes_freed(old)
        rows = [
            {
                "kind": one.kind,
                "path": str(one.path.relative_to(project.state)),
                "age": describe_seconds(max(0.0, one.seconds)),
                "frees": _size(freed[one.path]) if output == "table" else freed[one.path],
                "why": one.why,
                "removed": removes,
            }
            for one in old
        ]
        if removes:
            for one in old:
                remove(one)
    columns = ["kind", "path", "age", "frees", "why"]
    emit(rows, output, table=lambda: table_of(rows, columns) if rows else "nothing to remove")
    if rows:
        total = _size(sum(freed.values()))
        note(
            f"removed {len(rows)}, {total} freed" if removes else f"{len(rows)} would go, {total}: slipway clean --yes"
        )


def _seconds(text: str) -> float:
    from slipway.contracts.durations import parse_duration

    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise UsageError(str(error), where="--older-than", remedy="Write for example 12h or 30d.") from error


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
