"""Generates a platform: fixed tables once, then each day on its own, on as many workers as wished.

The hidden world is drawn again from the seed by every worker, so days need nothing of each other; their order and
number of workers change no byte. Memory holds the world (about 0.2 kB a user and 0.1 kB a piece of content) and one
part of one day.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from slipway.contracts.artifacts import write_artifact
from slipway.contracts.errors import UsageError
from slipway.contracts.files import write_json
from slipway.datasets.platform.activity import LABELS, World, write_interactions
from slipway.datasets.platform.catalogue import make_catalogue, write_content, write_creators
from slipway.datasets.platform.commerce import write_commerce
from slipway.datasets.platform.population import make_population, write_accounts_truth, write_users
from slipway.datasets.platform.scores import LabelCounts
from slipway.datasets.platform.social import write_friendships
from slipway.datasets.platform.spec import PlatformSpec, planted
from slipway.datasets.platform.tables import identifiers

METHOD = (
    "AUC of the probabilities with which the labels were drawn, over all rows: no model ranks better in expectation. "
    "Probabilities stand in truth/<table> and must not be used as features. Computed from counts in 4,096 bins of the "
    "logit, ties within a bin counting half."
)
NOTES = {
    "liked": "Given the hidden taste of user and content.",
    "converted": "Given the hidden engagement of the user, of which interaction counts are a noisy view.",
    "churned": "Given the hidden engagement of the user, of which interaction counts are a noisy view.",
    "is_fraud": "All that the probability depends on is in the columns of transactions and users.",
    "genre": "Of every (text, genre) pair, by the exact posterior of the genre given the text's words.",
}
TABLE_OF_LABEL = {
    **dict.fromkeys(LABELS, "interactions"),
    "converted": "conversions",
    "churned": "renewals",
    "is_fraud": "fraud_labels",
    "genre": "content",
}

OnProgress = Callable[[int, int], None]


def make_world(spec: PlatformSpec) -> World:
    """Draws the hidden side of the platform from its seed."""
    catalogue = make_catalogue(spec)
    population = make_population(spec, catalogue)
    return World(spec, catalogue, population, identifiers("u", spec.users), identifiers("c", spec.content))


def generate_day(world: World, day: int, folder: Path) -> tuple[dict[str, int], dict[str, LabelCounts]]:
    """Writes everything that happens on one day; returns {table: rows} and the counts of each label."""
    counts = {label: LabelCounts() for label in TABLE_OF_LABEL if label != "genre"}
    rows = {"interactions": write_interactions(world, day, folder, counts)}
    return rows | write_commerce(world, day, folder, counts), counts


def generate(
    spec: PlatformSpec,
    target: Path,
    *,
    slipway_version: str,
    workers: int = 1,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Generates the whole data set at `target`, in one rename, and returns its labels.json.

    Args:
        spec: What to generate.
        target: The folder; tables are folders in it, partitioned by date where they have one.
        slipway_version: Version of the code, for the manifest.
        workers: Number of processes; each holds the hidden world.
        overwrite: Replace what is at `target`.
        on_progress: Told (events written, events in all).

    Raises:
        UsageError: `target` is there and `overwrite` is not given.
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """
    if target.exists() and not overwrite:
        raise UsageError(
            "there is something already", where=str(target), remedy="Name another folder, or give --overwrite."
        )
    with write_artifact(target, kind="platform", slipway_version=slipway_version) as draft:
        world = make_world(spec)
        rows, counts = _write_fixed(world, draft.path)
        done = 0
        for day_rows, day_counts in _days(world, draft.path, workers):
            rows.update(day_rows)
            for label, value in day_counts.items():
                counts.setdefault(label, LabelCounts()).merge(value)
            done += day_rows["interactions"]
            if on_progress is not None:
                on_progress(done, spec.events)
        labels = {
            label: {"table": TABLE_OF_LABEL[label], **value.summary(), "note": NOTES.get(label, "")}
            for label, value in counts.items()
        }
        summary = {"method": METHOD, "labels": labels}
        write_json(draft.path / "labels.json", summary)
        draft.rows = dict(sorted(rows.items()))
        draft.metadata = {"spec": spec.model_dump(mode="json"), "planted": planted(spec)}
    return summary | {"rows": dict(sorted(rows.items()))}


def _write_fixed(world: World, folder: Path) -> tuple[Counter[str], dict[str, LabelCounts]]:
    spec = world.spec
    rows: Counter[str] = Counter()
    rows["users"] = write_users(spec, world.population, folder / "users")
    rows["content"], genre = write_content(spec, world.catalogue, folder / "content")
    rows["creators"] = write_creators(spec, world.catalogue, folder / "creators")
    rows["friendships"] = write_friendships(world, folder / "friendships")
    _, rows["fraud_accounts"] = write_accounts_truth(
        spec, world.population, folder / "truth" / "users", folder / "fraud_accounts"
    )
    return rows, {"genre": genre}


def _days(world: World, folder: Path, workers: int) -> Iterator[tuple[dict[str, int], dict[str, LabelCounts]]]:
    days = range(world.spec.days)
    if workers <= 1:
        for day in days:
            yield generate_day(world, day, folder)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (world.spec,)) as pool:
        yield from pool.map(_worker_day, days, [folder] * len(days))


_world: World | None = None


def _start_worker(spec: PlatformSpec) -> None:
    global _world
    _world = make_world(spec)


def _worker_day(day: int, folder: Path) -> tuple[dict[str, int], dict[str, LabelCounts]]:
    assert _world is not None
    return generate_day(_world, day, folder)
