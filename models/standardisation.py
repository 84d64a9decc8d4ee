"""Features of users as inputs of a model: nulls filled, centred, scaled, clipped; the same in training and serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.errors import UsageError
from slipway.contracts.features import ViewSchema
from slipway.models.interface import Features

_CLIP = 5.0


@dataclass(frozen=True)
class Standardisation:
    """`mean`, `scale`, `default`: float64 [m] over the numeric features of all views in order; `clip`: in scales."""

    views: tuple[ViewSchema, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    default: NDArray[np.float64]
    clip: float = _CLIP

    @classmethod
    def fit(cls, views: tuple[ViewSchema, ...], features: Features) -> Standardisation:
        """Learns mean and scale from the features of the training users.

        Raises:
            UsageError: A view is not about users.
        """
        for view in views:
            if view.entity != "user":
                raise UsageError(
                    f"{view.name} is a view of {view.entity}s; this family reads views of users only",
                    where="model.features",
                    remedy="Name views of users.",
                )
        default = np.array([float(feature.default) for view in views for feature in view.numeric])
        blank = cls(views, np.zeros_like(default), np.ones_like(default), default, clip=np.inf)
        values = blank.apply(features) if views else np.zeros((1, 0))
        if not len(values):
            return cls(views, blank.mean, blank.scale, default)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        return cls(views, mean, np.where(scale > 1e-9 * np.maximum(np.abs(mean), 1e-9), scale, 1.0), default)

    def __len__(self) -> int:
        return len(self.mean)

    def apply(self, features: Features) -> NDArray[np.float64]:
        """Returns float64 [n, m]; every value depends on its own row only."""
        values = np.concatenate([features[view.name] for view in self.views], axis=1).astype(np.float64)
        values = np.where(np.isnan(values), self.default, values)
        limit = np.finfo(np.float32).max
        values = (np.clip(values, -limit, limit) - self.mean) / self.scale
        return np.clip(values, -self.clip, self.clip)

    def present(self, features: Features, n: int) -> NDArray[np.bool_]:
        """Says which of n rows have any value that is not null."""
        found = np.zeros(n, dtype=np.bool_)
        for view in self.views:
            found |= ~np.isnan(features[view.name]).all(axis=1)
        return found

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learnt, for the bundle."""
        return {"feature_mean": self.mean, "feature_scale": self.scale, "feature_clip": np.array([self.clip])}

    @classmethod
    def from_arrays(cls, views: tuple[ViewSchema, ...], arrays: Mapping[str, NDArray[Any]]) -> Standardisation:
        """Restores it from `to_arrays`; defaults come from the views."""
        default = np.array([float(feature.default) for view in views for feature in view.numeric])
        if arrays["feature_mean"].shape != default.shape:
            raise ValueError(f"the views have {len(default)} features, the weights {len(arrays['feature_mean'])}")
        return cls(
            views, arrays["feature_mean"], arrays["feature_scale"], default, clip=float(arrays["feature_clip"][0])
        )
