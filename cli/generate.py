"""`slipway generate`: data sets of any size, seeded."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime
from pathlib import Path

import click

from slipway.cli.options import output_option
from slipway.cli.output import console, emit, note, table_of


@click.group()
def generate() -> None:
    """Generate a data set of any size."""


@generate.command(
    epilog="\b\nExamples:\n"
    "  slipway generate platform --out data/platform\n"
    "  slipway generate platform --users 200000 --content 20000 --events 10000000 --workers 2 --out data/large\n"
    "\b\nThen, in slipway.yaml:\n"
    "  data:\n"
    "    interactions:\n"
    "      source: data/platform/interactions\n"
    "      columns: {user: user_id, item: content_id, timestamp: timestamp}\n"
    "    items: {source: data/platform/content, columns: {item: content_id}}"
)
@output_option
@click.option("--users", type=click.IntRange(100, 50_000_000), default=20_000, show_default=True)
@click.option("--content", type=click.IntRange(100, 5_000_000), default=4_000, show_default=True, help="Pieces of it.")
@click.option("--events", type=click.IntRange(min=1_000), default=1_000_000, show_default=True, help="Interactions.")
@click.option("--days", type=click.IntRange(7, 3_650), default=90, show_default=True)
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), default="2025-01-01", show_default=True, help="First day.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Same seed, same bytes.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the data set.")
def platform(
    output: str,
    users: int,
    content: int,
    events: int,
    days: int,
    start: datetime,
    seed: int,
    workers: int,
    overwrite: bool,
    out: Path,
) -> None:
    """Generate a content platform: users, content, creators, interactions, friendships, payments, fraud.

    Tables are folders of Parquet parts, by date where they have one. Structure, seasonality, drift and fraud are
    planted; labels.json says for each label the best AUC that any model can reach, and truth/ holds the probabilities
    from which labels were drawn.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from slipway.datasets.platform.generate import generate as generate_platform
    from slipway.datasets.platform.spec import PlatformSpec

    spec = PlatformSpec(users=users, content=content, events=events, days=days, seed=seed, start=start.date())
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("interactions", total=events)
        summary = generate_platform(
            spec,
            out,
            slipway_version=importlib.metadata.version("slipway"),
            workers=workers,
            overwrite=overwrite,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    rows = [
        {
            "label": label,
            "table": numbers["table"],
            "rows": numbers["rows"],
            "positives": numbers["positives"],
            "best_auc": numbers["best_auc"],
        }
        for label, numbers in summary["labels"].items()
    ]
    emit(summary, output, table=lambda: table_of(rows, title="Labels, and the best AUC that any model can reach"))
    counts = ", ".join(f"{table} {number:,}" for table, number in summary["rows"].items())
    note(f"written to {out}: {counts}")
