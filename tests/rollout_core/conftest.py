"""Worlds for the tests of the rollout core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from rollout_world import FAST, World

from slipway.contracts.rollout import RolloutPolicy


@pytest.fixture
def make_world() -> Any:
    """Returns a maker of worlds; policy fields given replace those of a fast canary."""

    def make(policy: Mapping[str, Any] | None = None, **fields: Any) -> World:
        return World(RolloutPolicy.model_validate({**FAST, **(policy or {})}), **fields)

    return make
