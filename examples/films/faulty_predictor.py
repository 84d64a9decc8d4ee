"""A predictor with faults, for trying out what a rollout does about them: slow answers, and some errors.

slipway rollout start films/3 --set serving.predictor=faulty_predictor:FaultyModel
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

from slipway.serving.predictor.model import BundleModel

SLOW_SHARE = float(os.environ.get("FAULTY_SLOW_SHARE", "0.5"))
SLOW_SECONDS = float(os.environ.get("FAULTY_SLOW_SECONDS", "0.4"))
ERROR_SHARE = float(os.environ.get("FAULTY_ERROR_SHARE", "0.1"))


class FaultyModel(BundleModel):
    """Answers half of all requests late and fails one in ten, as a bad build may do under load."""

    async def predict(self, payload: Any, headers: Any = None, *arguments: Any) -> Any:
        """Answers as the bundle says, or late, or not at all."""
        chance = random.random()  # noqa: S311 - a fault, no secret
        if chance < ERROR_SHARE:
            raise RuntimeError("a fault that this predictor was made to have")
        if chance < ERROR_SHARE + SLOW_SHARE:
            await asyncio.sleep(SLOW_SECONDS)
        return await super().predict(payload, headers, *arguments)
