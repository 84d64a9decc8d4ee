"""What a feature view is: features as expressions over a timeline, written once for every engine and every moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from slipway.contracts.durations import format_duration
from slipway.contracts.features import FeatureSchema, FeatureType, ViewSchema
from slipway.feature_store.views.timeline import Timeline

Entity = Literal["user", "item", "interaction"]


@dataclass(frozen=True)
class Feature:
    """One feature.

    `value` gives, for each row of a timeline, an Ibis expression over the timeline's earlier events. `default` stands
    in where the value is null or there is no row.
    """

    name: str
    value: Callable[[Timeline], Any]
    dtype: FeatureType = "float32"
    default: float | int | str | bool = 0.0
    description: str = ""

    def schema(self) -> FeatureSchema:
        """Returns the feature as models and the online store know it."""
        return FeatureSchema(name=self.name, dtype=self.dtype, default=self.default, description=self.description)


@dataclass(frozen=True)
class FeatureView:
    """Features of one kind of entity.

    `entity` "interaction" means the pair of user and item: such features exist at label time only, not online.
    `attributes` are columns of the items table that the features read; the timeline has them as `item_<name>`.
    """

    name: str
    entity: Entity
    features: tuple[Feature, ...]
    attributes: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that the timeline is divided by."""
        return ("user", "item") if self.entity == "interaction" else (self.entity,)

    def schema(self, time_to_live: timedelta | None = None) -> ViewSchema:
        """Returns the view as models and the online store know it. Views of interactions have none."""
        assert self.entity != "interaction", "a view of interactions is not kept online"
        return ViewSchema(
            name=self.name,
            entity=self.entity,
            features=tuple(feature.schema() for feature in self.features),
            time_to_live=None if time_to_live is None else int(time_to_live.total_seconds()),
        )


Windows = Sequence[timedelta]
ViewFunction = Callable[[Windows], FeatureView]
"""What a project's own `module:function` must be: windows -> view."""


def suffix(window: timedelta | None) -> str:
    """Returns the end of a feature's name for its window: _7d, _30d, _12h; nothing for all time."""
    if window is None:
        return ""
    days = window / timedelta(days=1)
    return f"_{int(days)}d" if days == int(days) else f"_{format_duration(window)}"
