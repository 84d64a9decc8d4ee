"""What a sweep on this machine chooses on: the training part of an earlier run's features, split once more."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slipway.components.harness import ERROR_FILE
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.errors import ArtifactError, StepError, UsageError
from slipway.contracts.files import write_json
from slipway.contracts.project import Project
from slipway.pipelines.runs import runs_of
from slipway.pipelines.sweeps.experiment import validation_split

FEATURES = "features"
_LOG = "features.log"


@dataclass(frozen=True)
class RunFeatures:
    """The artifacts of a run that a sweep starts from."""

    run_id: str
    dataset: Path
    features: Path
    fingerprint: str


def find_features(project: Project, run: str | None = None) -> RunFeatures:
    """Returns the artifacts of the newest run that split and featurized as the project file says.

    Args:
        project: The project file.
        run: Name of a run to take instead.

    Raises:
        UsageError: There is no such run.
    """
    wanted = {
        "split": project.split.model_dump(mode="json"),
        "features": project.features.model_dump(mode="json"),
    }
    reason = "no run has made features yet"
    for report in reversed(runs_of(project)):
        if run is not None and report.run_id != run:
            continue
        steps = {step.step: step.outputs for step in report.steps if step.status in ("ran", "cached")}
        dataset, features = steps.get("validate", {}).get("dataset"), steps.get("featurize", {}).get("features")
        if dataset is None or features is None:
            continue
        try:
            manifest = read_manifest(features, kind="features", verify=True)
            read_manifest(dataset, kind="dataset", verify=True)
        except ArtifactError as error:
            reason = f"the features of run {report.run_id} are not whole: {error.what}"
            continue
        if {name: manifest.metadata.get(name) for name in wanted} != wanted:
            reason = f"run {report.run_id} split or featurized in another way than the project file now says"
            continue
        return RunFeatures(report.run_id, dataset, features, manifest.fingerprint)
    where = f"run {run}" if run is not None else str(project.state / "runs")
    raise UsageError(reason, where=where, remedy="Make features first: slipway run")


def hold_out(project: Project, source: RunFeatures, folder: Path) -> Path:
    """Makes the features that trials train and choose on, in a process of its own, unless they are there.

    Args:
        project: The project file, with a sweep.
        source: Where they are made from.
        folder: The sweep's folder.

    Raises:
        StepError: They cannot be made.
    """
    target = folder / FEATURES
    try:
        read_manifest(target, kind="features", verify=True)
    except ArtifactError:
        pass
    else:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / "features.json"
    write_json(
        request,
        {
            "dataset": str(source.dataset),
            "features": str(source.features),
            "output": str(target),
            "split": validation_split(project).model_dump(mode="json"),
            "views": project.features.model_dump(mode="json"),
            "project_directory": str(project.directory),
            "project": project.name,
        },
    )
    outcome = folder / "features.outcome"
    outcome.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "slipway.components.tune.holdout", "--request", str(request)]
    with (folder / _LOG).open("wb") as log:
        done = subprocess.run(
            [*command, "--outcome", str(outcome)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    if done.returncode != 0:
        raise _failure(outcome, folder / _LOG, done.returncode)
    return target


def _failure(outcome: Path, log: Path, code: int) -> StepError:
    import json

    try:
        cause = json.loads((outcome / ERROR_FILE).read_text())
    except (OSError, ValueError):
        cause = {"what": f"its process ended with code {code}"}
    return StepError(
        f"no features to choose on could be made: {cause['what']}",
        step="tune",
        log=str(log),
        remedy=cause.get("remedy") or "Choose another sweep.validation.",
        cause=cause,
        exit_code=int(cause.get("exit_code", 1)),
    )
