"""The schema of a feature view: what a model was trained on and what the online store holds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway.contracts.files import canonical_json, sha256_of

FeatureType = Literal["float32", "float64", "int64", "string", "bool"]


class FeatureSchema(BaseModel):
    """One feature: its name, type, and the value that stands in when it is null or its row is missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dtype: FeatureType = "float32"
    default: float | int | str | bool = 0.0
    description: str = ""


class ViewSchema(BaseModel):
    """One feature view: the entity it is keyed by, its features in order, and how long a row stays fresh.

    `time_to_live` is in seconds, the same offline and online; None never expires.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    entity: Literal["user", "item"]
    features: tuple[FeatureSchema, ...] = Field(min_length=1)
    time_to_live: int | None = None

    @property
    def schema_hash(self) -> str:
        """Twelve hexadecimal digits over everything a reader must agree on; part of every online key."""
        content = self.model_dump(mode="json", exclude={"features": {"__all__": {"description"}}})
        return sha256_of(canonical_json(content))[:12]

    @property
    def numeric(self) -> tuple[FeatureSchema, ...]:
        """The features that a model may read as numbers, in order."""
        return tuple(feature for feature in self.features if feature.dtype != "string")
