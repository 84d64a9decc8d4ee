"""`slipway compile`: the pipeline as Kubeflow Pipelines reads it, and the objects that put it into a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from slipway.cli.options import file_option
from slipway.cli.output import note
from slipway.contracts.errors import UsageError
from slipway.contracts.files import write_atomically
from slipway.contracts.project import Project, load_project
from slipway.contracts.project.schedules import PipelineName

PIPELINES = tuple(name.replace("_", "-") for name in get_args(PipelineName))


def pipeline_option(command: Any) -> Any:
    """Adds `--pipeline`; the parameter is `pipeline: str`, one of PIPELINES."""
    return click.option(
        "--pipeline", type=click.Choice(PIPELINES), default="training", show_default=True, help="Which pipeline."
    )(command)


def parameters_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """Returns the parameters that NAME=VALUE texts give to a run.

    Raises:
        UsageError: One has no value.
    """
    parameters = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UsageError(f"--parameter {text!r} has no value", remedy="Write --parameter name=value.")
        parameters[name] = value
    return parameters


@click.command(
    "compile",
    epilog="\b\nExamples:\n"
    "  slipway compile --to pipeline.yaml\n"
    "  slipway compile --manifests deploy/ && kubectl apply -f deploy/\n"
    "  slipway compile --pipeline retraining --manifests deploy/ --no-run\n"
    "  slipway compile --train-job train.yaml --features features --output model",
)
@file_option
@pipeline_option
@click.option("--to", "target", type=click.Path(path_type=Path), help="File for the plain IR [default: pipeline.yaml].")
@click.option(
    "--manifests",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for Pipeline, PipelineVersion, the run's Job and schedules.",
)
@click.option("--run/--no-run", "with_run", default=True, show_default=True, help="Whether applying starts a run.")
@click.option("--label", default="", help="Tells a run from an earlier one of the same version.")
@click.option("--parameter", "parameters", metavar="NAME=VALUE", multiple=True, help="A parameter of the run.")
@click.option("--image", help="One container image for all steps; pin it by digest.")
@click.option(
    "--train-job",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for a TrainJob that trains by itself, without a pipeline.",
)
@click.option("--features", help="With --train-job: the features artifact, s3:// or on the project's volume.")
@click.option("--output", help="With --train-job: where the model goes, s3:// or on the project's volume.")
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
def compile_command(
    file: Path,
    pipeline: str,
    target: Path | None,
    manifests: Path | None,
    with_run: bool,
    label: str,
    parameters: tuple[str, ...],
    image: str | None,
    train_job: Path | None,
    features: str | None,
    output: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Write the pipeline for a cluster; the same project gives the same bytes on every machine.

    The plain IR is for the page and the command line of Kubeflow Pipelines. The manifests are for kubectl and GitOps:
    applying them makes the pipeline, its version, and one run; applying them again changes nothing.
    """
    from slipway.pipelines.compile import compile_pipeline

    project = load_project(file, overrides)
    name: Any = pipeline.replace("-", "_")
    if train_job is not None:
        write_train_job(project, train_job, features, output)
        if target is None and manifests is None:
            return
    if target is None and manifests is None:
        target = Path("pipeline.yaml")
    if target is not None and target.suffix not in (".yaml", ".yml"):
        raise UsageError("the target must end in .yaml", where=str(target), remedy="Name one with --to.")
    compiled = compile_pipeline(project, name, image=image)
    if target is not None:
        write_atomically(target, compiled.text)
        note(f"wrote {target}")
    if manifests is not None:
        for written in write_manifests(
            project, compiled, manifests, run=with_run, parameters=parameters_of(parameters), label=label
        ):
            note(f"wrote {written}")
        note(f"next: kubectl apply -f {manifests}")
    loose = sorted(step for step, image in compiled.images.items() if "@sha256:" not in image)
    if loose:
        note(f"not pinned by digest: the images of {', '.join(loose)}; see kubernetes.images in the project file")


def write_train_job(project: Project, target: Path, features: str | None, output: str | None) -> None:
    """Writes the TrainJob of a project.

    Raises:
        UsageError: It is not said what it reads and writes, or the project cannot be trained so.
    """
    from slipway.pipelines.kubernetes.manifests import to_yaml
    from slipway.pipelines.kubernetes.train_jobs import train_job

    if features is None or output is None:
        raise UsageError(
            "a TrainJob needs to know what it reads and writes",
            where="--train-job",
            remedy="Add --features and --output: s3://bucket/prefix, or folders relative to the project's volume.",
        )
    write_atomically(target, to_yaml([train_job(project, features, output)]))
    note(f"wrote {target}")
    note(f"next: kubectl apply -f {target}")


def write_manifests(
    project: Project, compiled: Any, folder: Path, *, run: bool, parameters: dict[str, Any], label: str
) -> list[Path]:
    """Writes the objects of a compiled pipeline and returns their files, in the order in which kubectl applies them."""
    from slipway.pipelines.kubernetes.manifests import (
        pipeline_manifests,
        run_manifest,
        schedule_manifests,
        to_yaml,
    )

    parts = {
        "1-pipeline": pipeline_manifests(project, compiled),
        "2-schedules": schedule_manifests(project, compiled, project.schedules),
        "3-run": [run_manifest(project, compiled, parameters, label)] if run else [],
    }
    written = []
    for part, objects in parts.items():
        path = folder / f"{compiled.name}-{part}.yaml"
        if objects:
            write_atomically(path, to_yaml(objects))
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written
