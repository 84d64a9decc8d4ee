"""`slipway clean`: old runs, cache entries, bundles and logs, or one person's captured data; shown first, and removed
only when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli.options import file_option, output_option, yes_option
from slipway.cli.output import emit, note, table_of
from slipway.contracts.errors import UsageError

if TYPE_CHECKING:
    from slipway.contracts.project import Project


@click.command()
@file_option
@output_option
@yes_option
@click.option("--dry-run", is_flag=True, help="Only show; this is what happens without --yes too.")
@click.option("--keep", default=5, show_default=True, type=click.IntRange(min=0), help="Newest runs to leave.")
@click.option("--older-than", default="0s", show_default=True, metavar="AGE", help="Leave what is younger: 12h, 30d.")
@click.option("--user", metavar="ID", help="Instead: what was captured of this person, by the id that requests name.")
def clean(file: Path, output: str, keep: int, older_than: str, user: str | None, *, yes: bool, dry_run: bool) -> None:
    """Show old state of the project, and remove it with --yes.

    Old are: runs and cache entries beyond the newest, bundles that are neither registered nor served, rotated logs,
    and what killed processes left half-written. What serves, is registered, or is referred to by a rollout stays.

    With --user, nothing of that goes: the person's rows leave the captured events, also while the plane captures.

    \b
    Examples:
      slipway clean                          show what would go
      slipway clean --keep 3 --older-than 7d
      slipway clean --yes
      slipway clean --user 4711              show what was captured of a person
      slipway clean --user 4711 --yes
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
    if user is not None:
        _forget(project, user, output, removes=removes)
        return
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


def _forget(project: Project, user: str, output: str, *, removes: bool) -> None:
    from slipway.cli.captured_user import forget_user, shortened
    from slipway.contracts.files import exclusive_lock

    lock = project.state / "forget.lock"
    with exclusive_lock(lock, holder="slipway clean --user", remedy="Wait until it has ended, then run it again."):
        held = forget_user(project, user, removes=removes)
    rows = [
        {
            "kind": one.kind,
            "place": shortened(one.place) if output == "table" else one.place,
            "rows": one.removed,
            "shared": one.changed,
            "removed": removes,
        }
        for one in held
    ]
    columns = ["kind", "place", "rows", "shared"]
    emit(rows, output, table=lambda: table_of(rows, columns) if rows else "nothing was captured of this person")
    if rows:
        count = sum(one.removed + one.changed for one in held)
        note(
            f"{count} rows are without this person now"
            if removes
            else f"{count} rows would be without this person: slipway clean --user ID --yes"
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
