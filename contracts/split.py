"""How held-out data is chosen, and which features are made: the `split:` and `features:` parts of a project file."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slipway.contracts.durations import Duration


class SplitSpec(BaseModel):
    """Which interactions are held out.

    time: everything from `cut` on, or the last `share` of all events by time.
    last_share: the last `share` of each user's events, ordered by (timestamp, item).
    leave_last_out: each user's last event.
    given: the rows whose `column` says test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["time", "last_share", "leave_last_out", "given"] = "time"
    share: float = Field(default=0.2, gt=0.0, lt=1.0)
    cut: datetime | None = None
    column: str | None = None
    minimum_users: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> SplitSpec:
        if (self.method == "given") != (self.column is not None):
            raise ValueError("`column` belongs to method given, and that method needs it")
        if self.cut is not None and self.method != "time":
            raise ValueError("`cut` belongs to method time")
        return self


class FeaturesSpec(BaseModel):
    """Feature views by name, or `module:function` of the project's own, and the windows that they look back over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: tuple[str, ...] = ("user_activity", "item_popularity")
    windows: tuple[Duration, ...] = (timedelta(days=7), timedelta(days=30))
    time_to_live: Duration | None = None
