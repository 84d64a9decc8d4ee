"""A small project over a table with names and ids of its own: people who like things of their own kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: small
data:
  interactions:
    source: events.parquet
    columns: {user: person, item: thing, timestamp: at}
split: {method: last_share, share: 0.2, minimum_users: 20}
features: {views: [user_activity, item_popularity]}
model:
  family: matrix_factorization
  parameters: {factors: 8, epochs: 5}
  features: [user_activity]
evaluation: {k: [5], bootstrap_samples: 100}
gates:
  - {metric: ndcg@5, minimum: 0.001}
"""


def write_small_project(folder: Path, *, people: int = 200, things: int = 80, events: int = 6000) -> Path:
    """Writes slipway.yaml and events.parquet into `folder` and returns it; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    person = random.integers(0, people, 3 * events)
    thing = random.integers(0, things, 3 * events)
    keep = (person % 4 == thing % 4) | (random.random(3 * events) < 0.1)
    pairs = np.unique(np.stack([person[keep], thing[keep]], axis=1), axis=0)
    pairs = random.permutation(pairs)[:events]
    moments = np.datetime64("2026-01-01T00:00:00", "us") + np.sort(random.integers(0, 90 * 86_400, len(pairs))).astype(
        "timedelta64[s]"
    )
    table = pa.table(
        {
            "person": [f"person-{number:04d}" for number in pairs[:, 0]],
            "thing": [f"t/{number}" for number in pairs[:, 1]],
            "at": pa.array(moments, pa.timestamp("us")),
        }
    )
    pq.write_table(table, folder / "events.parquet")
    (folder / "slipway.yaml").write_text(PROJECT)
    return folder
