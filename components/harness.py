"""What every way of calling a step has in common: outcome files, exit codes, the time limit, unexpected errors.

A step is a function `run(request, progress) -> result` of pydantic models. It is called by its `__main__`

    from slipway.components.harness import main
    from slipway.components.train.step import TrainRequest, run

    if __name__ == "__main__":
        raise SystemExit(main("train", TrainRequest, run))

(Katib trials, TrainJob pods, plain containers), and by its KFP component through `slipway.components.wrapper`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from slipway.components.progress import EventProgress, LogProgress, Progress
from slipway.contracts.durations import Duration
from slipway.contracts.errors import SlipwayError, UsageError
from slipway.contracts.files import write_json

Request = TypeVar("Request", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)
Run = Callable[[Request, Progress], Result]

RESULT_FILE = "result.json"
ERROR_FILE = "error.json"


class TimeLimitError(SlipwayError):
    """A step ran past its time limit."""


def main(
    step: str,
    request_type: type[Request],
    run: Run[Request, Result],
    argv: Sequence[str] | None = None,
    *,
    line: Callable[[str, float], str] = lambda name, value: f"{name}={value!r}",
) -> int:
    """Runs a step from the command line and returns its exit code.

    The request is read from `--request FILE`, then changed by `--name value` and `--part.name value`, whose values are
    read as YAML. The outcome goes to result.json or error.json in `--outcome`; metrics are printed as `name=value`.

    Args:
        step: Name of the step.
        request_type: What the step takes.
        run: The step.
        argv: Arguments; by default those of the process.
        line: How a metric is printed.
    """
    options, rest = _parser(step, request_type).parse_known_args(argv)
    outcome = Path(options.outcome)
    progress = EventProgress(Path(options.events), step) if options.events else LogProgress()
    try:
        request = read_request(step, request_type, options.request, rest)
    except SlipwayError as error:
        return report_failure(step, error, outcome)
    try:
        result = perform(step, request, run, progress, outcome=outcome, timeout=options.timeout)
    except SlipwayError as error:
        return report_failure(step, error, outcome)
    except KeyboardInterrupt:
        return 130
    write_json(outcome / RESULT_FILE, plain_result(result))
    for name, value in sorted(finite_metrics(result).items()):
        print(line(name, value))
    return 0


def perform(
    step: str,
    request: Request,
    run: Run[Request, Result],
    progress: Progress,
    *,
    outcome: Path,
    timeout: timedelta | None = None,
) -> Result:
    """Runs a step within its time limit and returns its result.

    Raises:
        SlipwayError: What the step raised; an exception of any other kind is logged with its traceback and becomes one
            that names its type.
    """
    for name in (RESULT_FILE, ERROR_FILE):
        (outcome / name).unlink(missing_ok=True)
    with _time_limit(step, timeout, outcome), _termination_as_interrupt():
        try:
            return run(request, progress)
        except SlipwayError:
            raise
        except MemoryError as error:
            traceback.print_exc()
            raise SlipwayError(
                "the memory of this machine did not suffice",
                where=f"step {step}",
                remedy="Use fewer rows, fewer factors, or a machine with more memory.",
            ) from error
        except ModuleNotFoundError as error:
            traceback.print_exc()
            raise SlipwayError(
                f"the package {error.name!r} is not installed",
                where=f"step {step}",
                remedy="slipway doctor says which extra brings it.",
            ) from error
        except Exception as error:
            traceback.print_exc()
            raise SlipwayError(
                f"unexpected {type(error).__name__}: {error}",
                where=f"step {step}",
                remedy="The traceback is in the log.",
            ) from error


def report_failure(step: str, error: SlipwayError, outcome: Path) -> int:
    """Writes error.json, prints the error to stderr, and returns the exit code."""
    write_json(outcome / ERROR_FILE, {"step": step, **error.to_dict()})
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def plain_result(result: BaseModel) -> dict[str, Any]:
    """Returns a result as JSON carries it: paths and times as text, NaN and infinity as null."""
    content: dict[str, Any] = json.loads(result.model_dump_json())
    return content


def finite_metrics(result: BaseModel) -> dict[str, float]:
    """Returns the numbers of `result.metrics` that are finite: the others break KFP's and Katib's readers."""
    metrics: dict[str, Any] = getattr(result, "metrics", None) or {}
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def read_request(step: str, request_type: type[Request], file: str | None, arguments: Sequence[str]) -> Request:
    """Returns the request that a file and `--name value` arguments describe.

    Raises:
        UsageError: The file cannot be read, an argument has no value, or a field does not fit.
    """
    content: dict[str, Any] = {}
    if file is not None:
        try:
            content = json.loads(Path(file).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"the request cannot be read ({error})", where=file) from error
    remaining = list(arguments)
    while remaining:
        name, separator, value = remaining.pop(0).partition("=")
        if not name.startswith("--") or (not separator and not remaining):
            raise UsageError(f"{name!r} has no value", where=f"step {step}", remedy="Write --name value.")
        _put(content, name.removeprefix("--"), value if separator else remaining.pop(0))
    try:
        return request_type.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, part['loc'])) or 'request'}: {part['msg']}" for part in error.errors(include_url=False)
        )
        raise UsageError(f"the request does not fit: {problems}", where=f"step {step}") from None


def _put(content: dict[str, Any], path: str, value: str) -> None:
    *parents, last = path.split(".")
    for name in parents:
        content = content.setdefault(name, {})
    # Option names are written with hyphens or as the field is named.
    content[last if last in content else last.replace("-", "_")] = yaml.safe_load(value)


def _parser(step: str, request_type: type[BaseModel]) -> argparse.ArgumentParser:
    fields = "\n".join(
        f"  --{name} (required)" if field.is_required() else f"  --{name} (default {field.get_default()!r})"
        for name, field in request_type.model_fields.items()
    )
    parser = argparse.ArgumentParser(
        prog=f"python -m slipway.components.{step}",
        description=f"The {step} step.\n\nfields of the request:\n{fields}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--request", help="JSON file with the request")
    parser.add_argument("--outcome", default=".", help="folder for result.json or error.json (default: this folder)")
    parser.add_argument("--events", help="file to which progress is appended as JSON lines (default: stderr)")
    parser.add_argument("--timeout", type=TypeAdapter(Duration).validate_python, help="time limit, such as 30m")
    return parser


@contextlib.contextmanager
def _time_limit(step: str, timeout: timedelta | None, outcome: Path) -> Iterator[None]:
    """Ends the process when the block takes too long: an exception could not interrupt native code."""
    if timeout is None:
        yield
        return

    def expire() -> None:
        error = TimeLimitError(
            f"stopped after its limit of {timeout}",
            where=f"step {step}",
            remedy=f"Raise steps.{step}.timeout in the project file, or give the step less to do.",
        )
        code = report_failure(step, error, outcome)
        if os.getpgrp() == os.getpid():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(os.getpgrp(), signal.SIGTERM)
        os._exit(code)

    watchdog = threading.Timer(timeout.total_seconds(), expire)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that half-written files are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
