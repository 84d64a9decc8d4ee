"""`slipway submit`: a run on a cluster, through Kubeflow Pipelines' API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.compile import parameters_of, pipeline_option
from slipway.cli.options import file_option, output_option
from slipway.cli.output import emit, note, table_of
from slipway.contracts.errors import ServiceError
from slipway.contracts.project import load_project

if TYPE_CHECKING:
    from slipway.pipelines.submission.follow import ClusterRunReport

_SHOWN = {"SUCCEEDED": "done", "SKIPPED": "cached", "FAILED": "failed", "RUNNING": "started", "CANCELED": "canceled"}


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl -n kubeflow port-forward svc/ml-pipeline 8888 &\n"
    "  slipway submit --api http://127.0.0.1:8888\n"
    "  slipway submit --pipeline retraining --parameter window_end=2026-01-31T00:00:00Z\n"
    "  slipway submit --no-follow -o json | jq -r .run_id"
)
@file_option
@output_option
@pipeline_option
@click.option(
    "--api", metavar="URL", help="Address of Kubeflow Pipelines' API [default: $KF_PIPELINES_ENDPOINT, kubernetes.api]."
)
@click.option("--label", default="", help="Makes another run of the same version and parameters.")
@click.option("--parameter", "parameters", metavar="NAME=VALUE", multiple=True, help="A parameter of the run.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for the end and show the steps.")
@click.option("--image", help="One container image for all steps; pin it by digest.")
@click.option("--set", "overrides", metavar="FIELD=VALUE", multiple=True, help="Override a field of the project file.")
def submit(
    file: Path,
    output: str,
    pipeline: str,
    api: str | None,
    label: str,
    parameters: tuple[str, ...],
    follow: bool,
    image: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Run the pipeline on a cluster and follow it.

    The version is uploaded if the cluster does not have it. The same project, parameters and label are the same run:
    a repetition finds it, goes on following it, and starts no other.

    Exit codes: 0 the run succeeded, 1 it failed, 3 a gate refused the model.
    """
    from slipway.pipelines.compile import compile_pipeline
    from slipway.pipelines.kubernetes.manifests import run_name
    from slipway.pipelines.submission.client import API_VARIABLE, PipelinesClient
    from slipway.pipelines.submission.follow import ClusterRunReport
    from slipway.pipelines.submission.follow import follow as follow_run
    from slipway.pipelines.submission.submit import Submission
    from slipway.pipelines.submission.submit import submit as submit_run
    from slipway.pipelines.submission.upload import ensure_version

    project = load_project(file, overrides)
    name: Any = pipeline.replace("-", "_")
    compiled = compile_pipeline(project, name, image=image)
    given = parameters_of(parameters)
    spec = project.kubernetes
    client = PipelinesClient(api or os.environ.get(API_VARIABLE) or spec.api, spec.namespace)
    if ensure_version(client, compiled):
        note(f"uploaded {compiled.version}")
    outcome = submit_run(
        client,
        Submission(
            compiled.name,
            compiled.version,
            given,
            f"{spec.pipeline_root.rstrip('/')}/{compiled.name}" if spec.pipeline_root else None,
            spec.service_account,
        ),
        run_name(compiled, given, label),
    )
    if outcome.run_id is None:
        raise ServiceError("the run was not made", where=client.address)
    note(f"{'started' if outcome.new else 'found'} {outcome.name} ({outcome.run_id})")
    state, tasks, failed, error = (
        follow_run(client, outcome.run_id, lambda task: note(f"{task.task}: {_SHOWN.get(task.state, task.state)}"))
        if follow
        else (str(client.run(outcome.run_id).get("state", "PENDING")), [], None, None)
    )
    report = ClusterRunReport(
        pipeline=compiled.name,
        version=compiled.version,
        run=outcome.name,
        run_id=outcome.run_id,
        new=outcome.new,
        state=state,
        tasks=tuple(tasks),
        failed_task=failed,
        error=error,
        parameters=given,
    )
    emit(report, output, table=lambda: _table(report))
    failure = report.failure()
    if failure is not None:
        raise failure


def _table(report: ClusterRunReport) -> Any:
    rows = [{"task": task.task, "state": task.state, "seconds": task.seconds} for task in report.tasks]
    return table_of(rows, ["task", "state", "seconds"], title=f"{report.run}: {report.state}")
