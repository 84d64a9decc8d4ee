"""The runs of a project on disk, and one run from the project file to its report."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slipway.components.cache import StepCache
from slipway.components.registry_state import KnownVersion, known_versions
from slipway.contracts.errors import UsageError
from slipway.contracts.files import exclusive_lock
from slipway.contracts.project import Project
from slipway.pipelines.runners.job import RUN_FILE, Job, RunReport
from slipway.pipelines.runners.local import run_job
from slipway.pipelines.settings import STEPS, training_settings
from slipway.pipelines.unchanged import recall

PIPELINE = "slipway.pipelines.training:build_training"


def run_training(
    project: Project,
    *,
    name: str | None = None,
    step: str | None = None,
    use_cache: bool = True,
    observe: Callable[[dict[str, Any]], None] | None = None,
) -> RunReport:
    """Runs the training pipeline of a project on this machine.

    Args:
        project: The project file.
        name: Name of the run; by default its time and a few random letters.
        step: Run this step even if nothing changed, and before it only what it needs; nothing after it.
        use_cache: Whether earlier outcomes may be used.
        observe: Called with each event of a step.

    Raises:
        LockHeldError: Another run of this project goes on.
        UsageError: There is already a run of this name.
    """
    run_id = new_run_id(name)
    directory = project.state / "runs" / run_id
    with exclusive_lock(
        project.state / "run.lock", holder=f"run {run_id}", remedy="Wait for it to end, or stop that process."
    ):
        if _status(directory) == "done":
            raise UsageError(f"there is already a run named {run_id!r}", remedy="Choose another --name.")
        # An unfinished run of this name: nobody works on it, as the lock is ours. Its finished steps are in the cache.
        shutil.rmtree(directory, ignore_errors=True)
        cache = project.state / "cache"
        StepCache(cache).sweep()
        settings = training_settings(project, champion=current_champion(project), memory=cache / "sources.json")
        steps = STEPS if step is None else STEPS[: STEPS.index(step) + 1]
        job = Job(
            project=project.name,
            run_id=run_id,
            directory=directory,
            cache=cache,
            pipeline=PIPELINE,
            settings={
                "name": project.name,
                "steps": {name: settings[name].model_dump(mode="json") for name in steps},
            },
            steps=steps,
            forced=steps if not use_cache else steps[-1:] if step is not None else (),
        )
        return recall(job, settings, observe) or run_job(job, observe)


def _status(directory: Path) -> str | None:
    try:
        return RunReport.model_validate_json((directory / RUN_FILE).read_bytes()).status
    except (OSError, ValidationError):
        return None


def new_run_id(name: str | None = None) -> str:
    """Returns the name of a new run; names that begin with a time sort by it."""
    return name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def runs_of(project: Project) -> list[RunReport]:
    """Returns the reports of the runs that are on disk, oldest first."""
    reports = []
    for file in (project.state / "runs").glob(f"*/{RUN_FILE}"):
        try:
            reports.append(RunReport.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(reports, key=lambda report: (report.started, report.run_id))


def current_champion(project: Project) -> KnownVersion | None:
    """Returns the version that the alias champion points at, if there is one.

    Raises:
        ServiceError: MLflow does not answer.
    """
    versions = known_versions(project.directory, project.tracking.uri, project.name)
    if versions is None:
        from slipway.models.registry import CHAMPION, registry_for

        registry = registry_for(project.directory, project.tracking.uri)
        found = registry.find(project.name, CHAMPION)
        if found is None:
            return None
        found = registry.with_bundle(found)
        return KnownVersion(found.version, found.bundle_dir, found.sha256, found.aliases)
    return next((version for version in versions if "champion" in version.aliases), None)
