"""`slipway compile`: the pipeline as Kubeflow Pipelines reads it."""

from __future__ import annotations

from pathlib import Path

import click

from slipway.cli.options import file_option
from slipway.cli.output import note
from slipway.contracts.errors import UsageError
from slipway.contracts.project import load_project


@click.command(
    "compile", epilog="\b\nExample:\n  slipway compile --to pipeline.yaml --image registry.example/steps@sha256:..."
)
@file_option
@click.option("--to", "target", type=click.Path(path_type=Path), default=Path("pipeline.yaml"), show_default=True)
@click.option("--image", help="Container image of the steps; pin it by digest.")
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
def compile_pipeline(file: Path, target: Path, image: str | None, overrides: tuple[str, ...]) -> None:
    """Write the pipeline as plain IR YAML, for `kfp run create` or the page of Kubeflow Pipelines."""
    from slipway.pipelines.compile import compile_training

    if target.suffix not in (".yaml", ".yml"):
        raise UsageError("the target must end in .yaml", where=str(target), remedy="Name one with --to.")
    compile_training(load_project(file, overrides), target, image=image)
    note(f"wrote {target}")
