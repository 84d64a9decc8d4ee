"""The `data:` part of a project file: where tables are, what their columns mean, and what must hold of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slipway.contracts.durations import Duration


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InteractionColumns(_Spec):
    """Our names for the columns of the interactions, and the names that the source gives them."""

    user: str = "user"
    item: str = "item"
    timestamp: str = "timestamp"
    rating: str | None = None
    weight: str | None = None
    session: str | None = None
    split: str | None = None

    def chosen(self) -> dict[str, str]:
        """Returns {our name: name in the source} of the columns to read, in a fixed order."""
        return {ours: theirs for ours, theirs in self.model_dump().items() if theirs is not None}


class InteractionsSpec(_Spec):
    """The table of who did what when.

    `timestamp_unit` says what integers count since 1970; it is ignored for real timestamps, and times without a zone
    are UTC. `minimum_rating` keeps only the rows with at least that rating, as positives, in training and test alike.
    """

    source: str = Field(min_length=1, examples=["samples://movielens-small", "events/*.parquet", "ratings.csv"])
    columns: InteractionColumns = InteractionColumns()
    timestamp_unit: Literal["s", "ms", "us"] = "s"
    minimum_rating: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _rating_for_minimum(self) -> InteractionsSpec:
        if self.minimum_rating is not None and self.columns.rating is None:
            raise ValueError("minimum_rating needs a rating: name its column under columns, such as rating: stars")
        return self


class ItemColumns(_Spec):
    """Name of the key column of the items table."""

    item: str = "item"


class UserColumns(_Spec):
    """Name of the key column of the users table."""

    user: str = "user"


class ItemsSpec(_Spec):
    """The table of items. `attributes` are the columns to keep beside the key; null keeps all."""

    source: str = Field(min_length=1)
    columns: ItemColumns = ItemColumns()
    attributes: tuple[str, ...] | None = None


class UsersSpec(_Spec):
    """The table of users. `attributes` are the columns to keep beside the key; null keeps all."""

    source: str = Field(min_length=1)
    columns: UserColumns = UserColumns()
    attributes: tuple[str, ...] | None = None


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Bound = Annotated[float, Field(allow_inf_nan=False)] | None


class ChecksSpec(_Spec):
    """What must hold of the data before anything is made of it.

    Columns are named by our names; a column of the items or users table is written `items.year`, `users.age`.
    Keys and event times must never be null. `ranges` are [lowest, highest], both allowed, null for no bound.
    """

    maximum_null_share: dict[str, Share] = Field(default_factory=dict)
    ranges: dict[str, tuple[Bound, Bound]] = Field(default_factory=dict)
    duplicates: Literal["refuse", "drop", "allow"] = "refuse"
    future_tolerance: Duration = timedelta(hours=1)
    freshness: Duration | None = None
    minimum_rows: int = Field(default=1, ge=1)

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[Bound, Bound]]) -> dict[str, tuple[Bound, Bound]]:
        for column, (low, high) in ranges.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"the range of {column!r} is empty: {low:g} is above {high:g}")
        return ranges


class DataSpec(_Spec):
    """The tables of a project and the checks on them."""

    interactions: InteractionsSpec
    items: ItemsSpec | None = None
    users: UsersSpec | None = None
    checks: ChecksSpec = Field(default_factory=ChecksSpec)
