"""`slipway init`: copies an example project that runs."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

import click

from slipway.cli.output import note
from slipway.contracts.errors import UsageError
from slipway.contracts.project import PROJECT_FILE

# What belongs to the package and not to the project that a user copies.
_LEFT_OUT = ("__init__.py", "__pycache__", "demo", "*.pyc")


@click.command(epilog="\b\nExamples:\n  slipway init films\n  slipway init films my-project")
@click.argument("example")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
def init(example: str, directory: Path | None) -> None:
    """Copy an example project into a new folder (by default named as the example).

    `films` recommends films from the ratings of real people.
    """
    with as_file(files("slipway.examples")) as folder:
        examples = sorted(path.parent.name for path in folder.glob(f"*/{PROJECT_FILE}"))
        if example not in examples:
            raise UsageError(f"there is no example {example!r}", remedy=f"There are: {', '.join(examples)}.")
        target = Path(example) if directory is None else directory
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(
                "this folder is not empty",
                where=str(target),
                remedy=f"Name another one: slipway init {example} FOLDER",
            )
        shutil.copytree(folder / example, target, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
    note(f"{target}: a project that runs. Next: cd {target} && slipway run")
