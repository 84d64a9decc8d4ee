"""A rollout that was handed in, and Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_playback import create, spec_of

from slipway.serving.rollout.store import RolloutFolder


@pytest.fixture
def folder(tmp_path: Path) -> RolloutFolder:
    """A rollout that no controller has taken up."""
    return create(tmp_path, spec_of("20270102-000000-000-films-v2"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield chromium
        chromium.close()
