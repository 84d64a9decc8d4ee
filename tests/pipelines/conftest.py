"""Runs of the throwaway pipeline, in a folder of the test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway.pipelines.runners.job import Job

# The projects and pipelines of these tests are modules beside them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def toy_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Returns a function that makes a job of the throwaway pipeline: `toy_job("run 1", count={"number": 3})`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def make(run_id: str, *, forced: tuple[str, ...] = (), **settings: Any) -> Job:
        return Job(
            project="toy",
            run_id=run_id,
            directory=tmp_path / "runs" / run_id,
            cache=tmp_path / "cache",
            pipeline="toy_pipeline:build",
            settings={"count": {"number": 3}, **settings},
            steps=("count", "double"),
            forced=forced,
        )

    return make
