"""Between KFP and a step: parameters and artifacts to a request, the local cache, and results to metrics.

The same code runs on both planes. On a cluster, KFP caches and stores artifacts. On one machine the runner says by
environment variables where the run and the cache are (`LocalPlace`), and this module then

- puts outputs into the run's folder, `<run>/<step>/<output>`, and the process's output into `<run>/<step>.log`;
- takes outputs from the cache when step, settings, inputs, code and environment are those of an earlier run;
- reports what happens as events, and does not try again what cannot succeed.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from slipway.components.cache import CacheEntry, StepCache, fingerprint_of_output
from slipway.components.harness import RESULT_FILE, Run, finite_metrics, perform, plain_result, report_failure
from slipway.components.progress import EventProgress, LogProgress, Progress
from slipway.contracts.artifacts import fingerprint_of
from slipway.contracts.durations import Duration
from slipway.contracts.errors import DataError, EnvironmentProblemError, RefusedError, SlipwayError, UsageError
from slipway.contracts.files import write_json

Request = TypeVar("Request", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)

RUN_VARIABLE = "SLIPWAY_RUN_DIRECTORY"
CACHE_VARIABLE = "SLIPWAY_CACHE_DIRECTORY"
FORCED_VARIABLE = "SLIPWAY_FORCED_STEPS"
RUN_ID_VARIABLE = "SLIPWAY_RUN_ID"
EVENTS_FILE = "events.jsonl"

# On a cluster the log is all that is left of a failed step: whoever follows the run finds its error after this mark.
ERROR_MARK = "slipway-error: "

# Errors that the same attempt would meet again.
FINAL_ERRORS = (RefusedError, UsageError, DataError, EnvironmentProblemError)


class OutputArtifact(Protocol):
    """The part of a KFP artifact that is used here."""

    path: str
    uri: str
    metadata: dict[str, Any]


class MetricsArtifact(OutputArtifact, Protocol):
    """A KFP Metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None: ...


@dataclass(frozen=True)
class LocalPlace:
    """Where a run on this machine keeps what it makes."""

    run: Path
    cache: StepCache | None
    forced: frozenset[str]

    @classmethod
    def from_environment(cls) -> LocalPlace | None:
        """Returns the place that the local runner named; None on a cluster."""
        run = os.environ.get(RUN_VARIABLE)
        if not run:
            return None
        cache = os.environ.get(CACHE_VARIABLE)
        forced = frozenset(filter(None, os.environ.get(FORCED_VARIABLE, "").split(",")))
        return cls(Path(run), StepCache(Path(cache)) if cache else None, forced)


def run_component(
    step: str,
    load: Callable[[], tuple[type[Request], Run[Request, Result]]],
    *,
    config: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, OutputArtifact],
    place: str = "{}",
    code: str = "",
    environment: str = "",
    data: str = "",
    timeout: str = "1h",
    metrics: MetricsArtifact | None = None,
    report: OutputArtifact | None = None,
    surroundings: Callable[[], str | None] | None = None,
) -> dict[str, Any]:
    """Runs a step as a KFP task and returns its result; ends the process with the step's exit code if it fails.

    Args:
        step: Name of the step.
        load: Returns what the step takes and the step; called only if it must run, as its libraries take a while.
        config: The settings of the request, as JSON: what decides the outcome.
        place: Further fields of the request, as JSON: where things are on this plane. They decide no outcome.
        inputs: Field of the request -> input artifact directory.
        outputs: Field of the request -> output artifact, a directory with a manifest or a model bundle.
        code: Fingerprint of the code that the step runs.
        environment: Fingerprint of the libraries and the processor that can change a result.
        data: Fingerprint of what the step reads from outside the pipeline.
        timeout: Time limit, such as 30m.
        metrics: Where numbers go for the dashboard.
        report: Where the step's report.md goes for the dashboard.
        surroundings: For a step that acts on something outside: returns the fingerprint of its present state. Only
            if that is as the step last left it may an earlier result stand for this one; None allows none.
    """
    local = LocalPlace.from_environment()
    progress: Progress = LogProgress()
    outcome = Path(metrics.path).parent if metrics is not None else Path()
    if local is not None:
        outcome = local.run / step
        outcome.mkdir(parents=True, exist_ok=True)
        _redirect_output(local.run / f"{step}.log")
        progress = EventProgress(local.run / EVENTS_FILE, step)
        for artifact in outputs.values():
            artifact.uri = str(outcome / Path(artifact.path).name)
    fields = {field: Path(artifact.path) for field, artifact in outputs.items()}
    paths = {path.name: path for path in fields.values()}
    limit = TypeAdapter(Duration).validate_python(timeout)
    _event(progress, "started", process=os.getpid(), timeout=limit.total_seconds())
    started = time.monotonic()
    try:

        def key_now() -> str | None:
            outside = "" if surroundings is None else surroundings()
            if outside is None:
                return None
            parents = {name: fingerprint_of_output(Path(path)) for name, path in inputs.items()}
            return step_key(step, config, parents, code=code, environment=environment, data=data, surroundings=outside)

        key = key_now()
        cache = local.cache if local is not None else None
        entry = None
        if cache is not None and local is not None and step not in local.forced and key is not None:
            entry = cache.take(step, key, paths)
        came_from_cache = entry is not None
        if entry is None:
            extra = {"checkpoint": cache.checkpoint(step, key)} if cache is not None and key is not None else {}
            request_type, run = load()
            request = build_request(step, request_type, config, place, {**inputs, **fields, **extra})
            result = perform(step, request, run, progress, outcome=outcome, timeout=limit)
            entry = CacheEntry(
                step=step,
                key=key_now() or "",
                outputs={name: fingerprint_of_output(path) for name, path in paths.items()},
                metrics=finite_metrics(result),
                result=plain_result(result),
                folder=str(outcome),
                seconds=time.monotonic() - started,
            )
            if cache is not None and entry.key:
                cache.put(entry, paths)
            if cache is not None and key is not None:
                cache.drop_checkpoint(step, key)
        final_result = entry.result_at(outcome)
        write_json(outcome / RESULT_FILE, final_result)
        _publish(entry, outputs, metrics, report)
    except SlipwayError as error:
        _event(
            progress,
            "failed",
            error=error.to_dict(),
            final=isinstance(error, FINAL_ERRORS),
            seconds=time.monotonic() - started,
        )
        if local is None:
            print(ERROR_MARK + json.dumps(error.to_dict(), default=str), file=sys.stderr)
        sys.exit(report_failure(step, error, outcome))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - a step that ends must say why, whoever is at fault
        traceback.print_exc()
        fault = SlipwayError(f"unexpected {type(error).__name__}: {error}", remedy="The traceback is in the log.")
        _event(progress, "failed", error=fault.to_dict(), final=False)
        sys.exit(report_failure(step, fault, outcome))
    _event(
        progress,
        "cached" if came_from_cache else "finished",
        seconds=time.monotonic() - started,
        outputs={name: str(path) for name, path in paths.items()},
        fingerprints=entry.outputs,
        metrics=entry.metrics,
        result=final_result,
    )
    if local is not None:
        atexit.register(_leave_at_once)
    return final_result


def bundle_fields(name: str, place: str, sha256: str) -> dict[str, str]:
    """Returns the fields of a request that say where a bundle is: `name` for a folder, `name_uri` for an address.

    Args:
        name: Of the bundle in the request.
        place: A folder, `s3://bucket/prefix`, or an empty text for no bundle.
        sha256: The bundle's digest.
    """
    if not place:
        return {}
    return {f"{name}_uri": place, f"{name}_sha256": sha256} if "://" in place else {name: place}


def build_request(
    step: str, request_type: type[Request], config: str, place: str, fields: Mapping[str, Any]
) -> Request:
    """Returns the request that settings, places and paths make; paths that the step does not know are left out.

    Raises:
        UsageError: A setting does not fit.
    """
    known = {name: value for name, value in fields.items() if name in request_type.model_fields}
    run_id = os.environ.get(RUN_ID_VARIABLE)
    if run_id and "run_id" in request_type.model_fields:
        known["run_id"] = run_id
    try:
        # Paths come as they are, settings as JSON: both go through one validation.
        content = _json_object(config) | _json_object(place) | known
        return request_type.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors(include_url=False)
        )
        raise UsageError(f"its settings do not fit: {problems}", where=f"step {step}") from None


def step_key(
    step: str, config: str, parents: Mapping[str, str], *, code: str, environment: str, data: str, surroundings: str
) -> str:
    """Returns the hash of everything that a step's outcome depends on; `parents` are its inputs' fingerprints."""
    return fingerprint_of(
        {
            "step": step,
            "settings": _json_object(config),
            "parents": dict(parents),
            "code": code,
            "environment": environment,
            "data": data,
            "surroundings": surroundings,
        }
    )


def _json_object(text: str) -> dict[str, Any]:
    return TypeAdapter(dict[str, Any]).validate_json(text)


def _publish(
    entry: CacheEntry,
    outputs: Mapping[str, OutputArtifact],
    metrics: MetricsArtifact | None,
    report: OutputArtifact | None,
) -> None:
    paths = [Path(artifact.path) for artifact in outputs.values()]
    for path, artifact in zip(paths, outputs.values(), strict=True):
        artifact.metadata["fingerprint"] = entry.outputs[path.name]
    if metrics is not None:
        for name, value in entry.metrics.items():
            metrics.log_metric(name, value)
        # KFP takes a task whose metrics file is missing for one that never ran.
        write_json(Path(metrics.path), entry.metrics)
    if report is not None:
        texts = [path / "report.md" for path in paths if (path / "report.md").is_file()]
        target = Path(report.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n\n".join(text.read_text() for text in texts) or f"{entry.step}: no report\n")


def _event(progress: Progress, name: str, **fields: Any) -> None:
    if isinstance(progress, EventProgress):
        progress.event(name, **fields)


def _leave_at_once() -> None:
    """Ends the process without taking large libraries apart, which takes a second or two of each step."""
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter keeps here an exception that nobody caught, such as one of KFP's own after the step.
    os._exit(1 if hasattr(sys, "last_type") else 0)


def _redirect_output(log: Path) -> None:
    """Sends stdout and stderr of this process and of its children to the step's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
