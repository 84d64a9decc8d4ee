"""Makes the features that a sweep chooses on: the training part of a `features` artifact, split once more.

    python -m slipway.components.tune.holdout --dataset DATASET --features FEATURES --output TUNING \
        --split '{method: last_share, share: 0.2}'

The held-out part of FEATURES is not read, so that it still says something about the parameters that the sweep finds.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slipway.components.featurize.step import FeaturizeRequest, FeaturizeResult
from slipway.components.featurize.step import run as featurize
from slipway.components.harness import main
from slipway.components.progress import Progress
from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.errors import ArtifactError
from slipway.contracts.split import FeaturesSpec, SplitSpec

TRAIN = "train.parquet"


class HoldoutRequest(BaseModel):
    """What to split and how.

    `dataset` is the artifact that `features` was made from; its tables of users and items are used. `views` are the
    feature views to make again, as of the new split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Path
    features: Path
    output: Path
    split: SplitSpec = SplitSpec(method="last_share")
    views: FeaturesSpec = FeaturesSpec()
    project_directory: Path | None = None
    project: str = "slipway"


def run(request: HoldoutRequest, progress: Progress) -> FeaturizeResult:
    """Writes the artifact.

    Raises:
        ArtifactError: An input is not whole, or `features` was made from another dataset.
        DataError: The split leaves nothing to train on or to hold out.
        EnvironmentProblemError: The disk is full.
    """
    dataset = read_manifest(request.dataset, kind="dataset")
    features = read_manifest(request.features, kind="features")
    if dataset.fingerprint not in {parent.fingerprint for parent in features.parents}:
        raise ArtifactError(
            "the features were made from another dataset", where=str(request.features), remedy="Pass both of one run."
        )
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.output.parent, prefix=".holdout-") as folder:
        known = Path(folder) / "dataset"
        with write_artifact(known, kind="dataset", slipway_version=importlib.metadata.version("slipway")) as draft:
            draft.parents = [dataset.as_parent("dataset"), features.as_parent("features")]
            shutil.copyfile(request.features / TRAIN, draft.path / "interactions.parquet")
            for table in ("items.parquet", "users.parquet"):
                if (request.dataset / table).is_file():
                    shutil.copyfile(request.dataset / table, draft.path / table)
            draft.rows["interactions.parquet"] = features.rows.get(TRAIN, 0)
        return featurize(
            FeaturizeRequest(
                dataset=known,
                output=request.output,
                split=request.split,
                features=request.views,
                project_directory=request.project_directory,
                project=request.project,
            ),
            progress,
        )


if __name__ == "__main__":
    raise SystemExit(main("tune.holdout", HoldoutRequest, run))
