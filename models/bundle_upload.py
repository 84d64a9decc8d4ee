"""A bundle as an artifact of an MLflow server.

A server takes no folder of a client as the source of a version: it could name any file of the server's. What it takes
is an artifact of one of its own runs, which is also the copy that outlives the client's machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARTIFACT = "bundle"
_SHA256_TAG = "slipway.uploaded_sha256"
_EXPERIMENT = "slipway/bundles"


def upload_bundle(client: Any, name: str, directory: Path, sha256: str) -> tuple[str, str]:
    """Uploads a bundle once, and finds it again afterwards.

    Args:
        client: An MlflowClient of the server.
        name: The registered model.
        directory: The bundle.
        sha256: Its digest.

    Returns:
        (address that the server accepts as the source of a version, id of the run that holds it).
    """
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    identifier = client.create_experiment(_EXPERIMENT) if experiment is None else experiment.experiment_id
    whole = f"tags.`{_SHA256_TAG}` = '{sha256}' and attributes.status = 'FINISHED'"
    found = client.search_runs([identifier], filter_string=whole, max_results=1)
    if found:
        run = found[0]
    else:
        run = client.create_run(identifier, run_name=f"{name} {sha256[:12]}", tags={_SHA256_TAG: sha256})
        # A run that is cut off here never is FINISHED, and so is never found.
        client.log_artifacts(run.info.run_id, str(directory), artifact_path=ARTIFACT)
        client.set_terminated(run.info.run_id)
    return f"{run.info.artifact_uri}/{ARTIFACT}", run.info.run_id
