"""Planted tastes: users of a group take the items of that group; a feature tells the group of half the users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.models.ids import IdIndex
from slipway.models.interface import TrainingData

GROUPS = 3
TASTE = ViewSchema(
    name="taste",
    entity="user",
    features=(
        *(FeatureSchema(name=f"group_{group}", default=0.0) for group in range(GROUPS)),
        FeatureSchema(name="label", dtype="string", default=""),
    ),
)


@dataclass(frozen=True)
class Planted:
    """Training data with and without features, and the group of each user and item row."""

    data: TrainingData
    with_features: TrainingData
    group_of_user: NDArray[np.int64]
    group_of_item: NDArray[np.int64]


def plant(n_users: int = 120, n_items: int = 60, seed: int = 0) -> Planted:
    generator = np.random.default_rng(seed)
    group_of_user, group_of_item = np.arange(n_users) % GROUPS, np.arange(n_items) % GROUPS
    users, items = [], []
    for user in range(n_users):
        taste = np.where(group_of_item == group_of_user[user], 20.0, 1.0)
        chosen = generator.choice(n_items, size=int(generator.integers(4, 12)), replace=False, p=taste / taste.sum())
        users += [user] * len(chosen)
        items += chosen.tolist()
    features = np.eye(GROUPS, dtype=np.float32)[group_of_user]
    features[::7] = np.nan
    rows = np.array(users, dtype=np.int64)
    shared = {
        "users": IdIndex.from_strings(f"u{user:04d}" for user in range(n_users)),
        "items": IdIndex.from_strings(f"i{item:04d}" for item in range(n_items)),
        "user_rows": rows,
        "item_rows": np.array(items, dtype=np.int64),
        "weights": generator.integers(1, 6, len(rows)).astype(np.float32),
        "timestamps": np.arange(len(rows), dtype=np.int64),
    }
    return Planted(
        data=TrainingData(**shared),  # type: ignore[arg-type]
        with_features=TrainingData(
            **shared,  # type: ignore[arg-type]
            user_features={"taste": features},
            label_features={"taste": features[rows]},
            views=(TASTE,),
        ),
        group_of_user=group_of_user,
        group_of_item=group_of_item,
    )


@pytest.fixture(scope="session")
def planted() -> Planted:
    """A world that tests only read."""
    return plant()
