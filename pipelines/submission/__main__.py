"""What the Jobs run: `run` starts a run once, `schedule` makes a recurring run; both print what came of it as JSON.

python -m slipway.pipelines.submission run --api URL --namespace NS --pipeline P --version V --run-name NAME
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipway.contracts.errors import SlipwayError, UsageError
from slipway.pipelines.submission.client import PipelinesClient
from slipway.pipelines.submission.submit import (
    Outcome,
    Submission,
    due_of_job,
    ensure_recurring_run,
    submit,
    submit_scheduled,
)

JOB_VARIABLE = "SLIPWAY_JOB_NAME"
# Kubernetes shows this file's content in the pod's status: the record of the run beside the Job.
TERMINATION_LOG = Path("/dev/termination-log")


def main(argv: Sequence[str] | None = None) -> int:
    """Carries out the command and returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        outcome = _run(options) if options.command == "run" else _schedule(options)
    except SlipwayError as error:
        _record(error.to_dict())
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    record = asdict(outcome) | {"pipeline": options.pipeline, "version": options.version}
    _record(record)
    print(json.dumps(record, sort_keys=True))
    return 0


def _run(options: argparse.Namespace) -> Outcome:
    client, submission = _client(options), _submission(options)
    if options.schedule is None:
        if not options.run_name:
            raise UsageError("a run needs a name", remedy="Give --run-name, or --schedule.")
        return submit(client, submission, options.run_name)
    # Without a CronJob's name the run is due now: somebody made the Job by hand.
    due = due_of_job(os.environ.get(JOB_VARIABLE, "")) or datetime.now(UTC).replace(second=0, microsecond=0)
    return submit_scheduled(
        client,
        submission,
        options.schedule,
        due,
        overlap=options.overlap,
        maximum_concurrency=options.maximum_concurrency,
    )


def _schedule(options: argparse.Namespace) -> Outcome:
    fields = _json_object(options.schedule, "--schedule")
    try:
        return ensure_recurring_run(
            _client(options),
            _submission(options),
            options.prefix,
            options.name,
            cron=str(fields["cron"]),
            concurrency=int(fields["concurrency"]),
            catch_up=bool(fields["catch_up"]),
            enabled=bool(fields["enabled"]),
        )
    except KeyError as error:
        raise UsageError(f"it lacks {error}", where="--schedule") from error


def _client(options: argparse.Namespace) -> PipelinesClient:
    return PipelinesClient(options.api, options.namespace)


def _submission(options: argparse.Namespace) -> Submission:
    return Submission(
        pipeline=options.pipeline,
        version=options.version,
        parameters=_json_object(options.parameters, "--parameters"),
        pipeline_root=options.pipeline_root,
        service_account=options.service_account,
    )


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise UsageError("it is no JSON object", where=where) from None


def _record(content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        TERMINATION_LOG.write_text(json.dumps(content, sort_keys=True, default=str)[:4000])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slipway.pipelines.submission", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start a run once")
    run.add_argument("--run-name", help="the same name is the same run")
    run.add_argument("--schedule", help="name of the schedule; the run's name is this and the time it was due")
    run.add_argument("--overlap", choices=("forbid", "replace", "allow"), default="forbid")
    run.add_argument("--maximum-concurrency", type=int, default=1)
    schedule = commands.add_parser("schedule", help="make a recurring run")
    schedule.add_argument("--prefix", required=True)
    schedule.add_argument("--name", required=True)
    schedule.add_argument("--schedule", required=True, help="JSON: cron, concurrency, catch_up, enabled")
    for command in (run, schedule):
        command.add_argument("--api", required=True)
        command.add_argument("--namespace", default="kubeflow")
        command.add_argument("--pipeline", required=True)
        command.add_argument("--version", required=True)
        command.add_argument("--parameters", default="{}", help="JSON object")
        command.add_argument("--pipeline-root")
        command.add_argument("--service-account")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
