"""Friendships: most of them within a segment, more for active users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from slipway.datasets.platform.activity import World
from slipway.datasets.platform.population import SEGMENTS
from slipway.datasets.platform.spec import stream
from slipway.datasets.platform.tables import dates, write_part

PART_USERS = 100_000
MEAN_FRIENDS = 6.0
WITHIN_SEGMENT = 0.7


def write_friendships(world: World, folder: Path) -> int:
    """Writes each friendship once, the smaller id first; returns the number of rows."""
    spec, population = world.spec, world.population
    by_segment = np.argsort(population.segment, kind="stable")
    edges = np.searchsorted(population.segment[by_segment], np.arange(SEGMENTS + 1))
    first_day = int(np.datetime64(spec.start, "D").astype(np.int64))
    rows = 0
    for part, start in enumerate(range(0, spec.users, PART_USERS)):
        random = stream(spec, "friendships", part)
        users = np.arange(start, min(start + PART_USERS, spec.users))
        degree = random.poisson(MEAN_FRIENDS * np.minimum(np.sqrt(population.activity[users]), 4.0))
        one = np.repeat(users, degree)
        segment = population.segment[one]
        low, size = edges[segment], np.maximum(edges[segment + 1] - edges[segment], 1)
        alike = by_segment[low + (random.random(len(one)) * size).astype(np.int64)]
        other = np.where(random.random(len(one)) < WITHIN_SEGMENT, alike, random.integers(0, spec.users, len(one)))
        # Each pair is drawn from its smaller side only, so parts cannot repeat each other.
        pairs = np.unique((one * spec.users + other)[other > one])
        one, other = pairs // spec.users, pairs % spec.users
        earliest = np.maximum(population.sign_up_day[one], population.sign_up_day[other])
        since = earliest + (random.random(len(one)) * np.maximum(spec.days - earliest, 1)).astype(np.int64)
        columns = {
            "user_id": world.user_ids.take(pa.array(one)),
            "friend_id": world.user_ids.take(pa.array(other)),
            "since": dates(since + first_day),
        }
        rows += write_part(folder / f"part-{part:05d}.parquet", columns)
    return rows
