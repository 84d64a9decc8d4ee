"""Where batch prediction gets a model's features: the online store, a features artifact, or nowhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slipway.components.latest_features import LatestFeatures
from slipway.contracts.errors import ServiceError
from slipway.contracts.features import ViewSchema

_TIMEOUT_SECONDS = 2.0
_PATIENCE_SECONDS = 15.0


class FeatureReader:
    """Features of users, float32 [n, m] by view, NaN where null or missing.

    `source` says in words where they come from; `missing` counts the rows that were not there.

    Args:
        views: What the model reads.
        artifact: Features artifact, or None.
        redis_url: Online store, which is preferred; or None.
        project: Name space of the online store.
    """

    def __init__(self, views: Sequence[ViewSchema], *, artifact: Path | None, redis_url: str | None, project: str):
        self._views = list(views)
        self._artifact: LatestFeatures | None = None
        self._store = None
        self.missing = 0
        if not views:
            self.source = "none: the model reads no features"
        elif redis_url is not None:
            from slipway.feature_store.online import OnlineStore

            self._store = OnlineStore(redis_url, project, timeout=_TIMEOUT_SECONDS)
            self.source = "online store"
        elif artifact is not None:
            self._artifact = LatestFeatures(artifact, views)
            self.source = f"features artifact {artifact}"
        else:
            self.source = "defaults: neither an online store nor a features artifact was given"

    def of(self, users: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Returns the features of some users.

        Raises:
            ServiceError: The online store does not answer: defaults would silently change the results.
        """
        if self._store is not None:
            return self._from_store(users)
        if self._artifact is not None:
            values = self._artifact.of(users)
        else:
            values = {view.name: np.full((len(users), len(view.numeric)), np.nan, np.float32) for view in self._views}
        self.missing += sum(int(np.isnan(rows).all(axis=1).sum()) for rows in values.values())
        return values

    def _from_store(self, users: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        from slipway.feature_store.online import PRESENT, UNREACHABLE

        assert self._store is not None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            found = self._store.read_many(self._views, users)
            if not any((rows.status == UNREACHABLE).any() for rows in found.values()):
                break
            if time.monotonic() > deadline:
                raise ServiceError(
                    "the online store does not answer",
                    where=self._store.url.rpartition("@")[2],
                    remedy="Start it with: slipway up, or read features from the artifact: --features artifact",
                )
            time.sleep(0.2)
        self.missing += sum(int((rows.status != PRESENT).sum()) for rows in found.values())
        return {name: rows.values for name, rows in found.items()}
