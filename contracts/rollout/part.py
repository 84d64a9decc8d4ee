"""What every part of the contract of a rollout has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Refuses unknown fields, NaN and infinity, and does not change once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
