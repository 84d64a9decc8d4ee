"""Small datasets whose features a plain loop can check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.contracts.artifacts import write_artifact

DAY = 86_400_000_000
START = 1_600_000_000_000_000

WriteDataset = Callable[..., Path]


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Writes a dataset artifact from rows of (user, item, microseconds, rating)."""

    def write(rows: list[tuple[str, str, int, float | None]], name: str = "dataset", **more: Any) -> Path:
        users, items, times, ratings = zip(*rows, strict=True) if rows else ((), (), (), ())
        table = pa.table(
            {
                "user": pa.array(users, pa.string()),
                "item": pa.array(items, pa.string()),
                "timestamp": pa.array(times, pa.timestamp("us")),
                "rating": pa.array(ratings, pa.float64()),
                **{column: values for column, values in more.items() if column != "attributes"},
            }
        )
        with write_artifact(tmp_path / name, kind="dataset", slipway_version="test") as draft:
            pq.write_table(table, draft.path / "interactions.parquet")
            if "attributes" in more:
                pq.write_table(more["attributes"], draft.path / "items.parquet")
        return tmp_path / name

    return write


def random_rows(seed: int, count: int = 300) -> list[tuple[str, str, int, float | None]]:
    """Returns rows with many ties in time, repeated pairs and missing ratings, in canonical order."""
    generator = np.random.default_rng(seed)
    rows = [
        (
            f"u{generator.integers(12)}",
            f"i{generator.integers(15)}",
            START + int(generator.integers(0, 60)) * DAY + int(generator.integers(0, 3)),
            None if generator.random() < 0.1 else float(generator.integers(1, 11)) / 2,
        )
        for _ in range(count)
    ]
    return sorted({row[:3]: row for row in rows}.values(), key=lambda row: (row[0], row[2], row[1]))


@pytest.fixture
def rows() -> list[tuple[str, str, int, float | None]]:
    return random_rows(7)
