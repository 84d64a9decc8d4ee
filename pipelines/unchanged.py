"""A run in which nothing changed, answered from the cache without starting a single step.

Keys follow from settings and from the fingerprints of earlier outcomes, so the whole chain can be looked up first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipway.components.cache import CacheEntry, StepCache
from slipway.components.registry_state import registry_fingerprint
from slipway.components.wrapper import step_key
from slipway.contracts.files import write_atomically
from slipway.pipelines.runners.job import RUN_FILE, Job, RunReport, StepReport
from slipway.pipelines.settings import INPUTS, OUTPUTS, StepSettings


def recall(
    job: Job, settings: Mapping[str, StepSettings], observe: Callable[[dict[str, Any]], None] | None = None
) -> RunReport | None:
    """Returns the report of a run whose every outcome is in the cache, whole; None if a step has to run."""
    if job.cache is None or job.forced:
        return None
    cache = StepCache(job.cache)
    entries = _entries(cache, job, settings)
    if entries is None:
        return None
    report = RunReport(
        project=job.project,
        run_id=job.run_id,
        directory=job.directory,
        status="done",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        steps=[],
    )
    began = time.monotonic()
    for step, entry in entries.items():
        started = time.monotonic()
        target = job.directory / step / OUTPUTS[step]
        if cache.take(step, entry.key, {OUTPUTS[step]: target}) is None:
            return None
        made = StepReport(
            step=step,
            status="cached",
            seconds=time.monotonic() - started,
            outputs={OUTPUTS[step]: target},
            fingerprints=entry.outputs,
            metrics=entry.metrics,
            result=entry.result_at(target.parent),
        )
        report.steps.append(made)
        if observe is not None:
            observe({"event": "cached", **made.model_dump(mode="json")})
    report.seconds = time.monotonic() - began
    write_atomically(job.directory / RUN_FILE, report.model_dump_json(indent=2) + "\n")
    return report


def _entries(cache: StepCache, job: Job, settings: Mapping[str, StepSettings]) -> dict[str, CacheEntry] | None:
    fingerprints: dict[str, str] = {}
    entries = {}
    for step in job.steps:
        own = settings[step]
        surroundings = _surroundings(step, own)
        if surroundings is None:
            return None
        key = step_key(
            step,
            own.config,
            {name: fingerprints[name] for name in INPUTS[step]},
            code=own.code_fingerprint,
            environment=own.environment_fingerprint,
            data=own.data_fingerprint,
            surroundings=surroundings,
        )
        entry = cache.peek(step, key)
        if entry is None:
            return None
        entries[step] = entry
        fingerprints |= entry.outputs
    return entries


def _surroundings(step: str, settings: StepSettings) -> str | None:
    if step != "register":
        return ""
    place = json.loads(settings.place)
    name = json.loads(settings.config)["name"]
    return registry_fingerprint(Path(place["project_directory"]), place["tracking_uri"], name)
