"""A features artifact of planted tastes, small enough to train on many times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slipway.contracts.artifacts import write_artifact

PEOPLE, THINGS, GROUPS = 150, 60, 3


def write_features(target: Path, *, taken: int = 12, seed: int = 5) -> Path:
    """Writes people who like the things of their own group; the same bytes each time."""
    generator = np.random.default_rng(seed)
    people, things = [], []
    for person in range(PEOPLE):
        taste = np.where(np.arange(THINGS) % GROUPS == person % GROUPS, 20.0, 1.0)
        chosen = generator.choice(THINGS, size=taken, replace=False, p=taste / taste.sum())
        people += [f"p{person}"] * taken
        things += [f"t{thing}" for thing in chosen]
    with write_artifact(target, kind="features", slipway_version="test") as draft:
        moments = pa.array(np.arange(len(people)) * 1_000_000, pa.timestamp("us"))
        table = pa.table({"user": people, "item": things, "timestamp": moments})
        pq.write_table(table, draft.path / "train.parquet")
        (draft.path / "views.json").write_text("[]")
    return target
