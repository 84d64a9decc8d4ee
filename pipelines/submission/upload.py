"""Bringing a compiled version to Kubeflow Pipelines through its API, where no manifest was applied."""

from __future__ import annotations

from slipway.contracts.errors import ServiceError
from slipway.pipelines.compile import CompiledPipeline
from slipway.pipelines.submission.client import NotThereError, PipelinesClient


def ensure_version(client: PipelinesClient, compiled: CompiledPipeline) -> bool:
    """Uploads the pipeline and its version unless they are there; returns whether anything was uploaded.

    Raises:
        ServiceError: The API does not answer, or refuses.
    """
    if _is_known(client, compiled):
        return False
    try:
        pipeline_id = client.pipeline_id(compiled.name) or client.create_pipeline(compiled.name)
        client.upload_version(pipeline_id, compiled.version, compiled.text)
    except ServiceError:
        # Somebody else may have uploaded it meanwhile.
        if not _is_known(client, compiled):
            raise
    return True


def _is_known(client: PipelinesClient, compiled: CompiledPipeline) -> bool:
    try:
        client.pipeline_version(compiled.name, compiled.version)
    except NotThereError:
        return False
    return True
