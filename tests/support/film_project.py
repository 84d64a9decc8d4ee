"""The film example as a project of a cluster: its tables in an object store, its steps in built images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import yaml
from container_engine import BUILT, ROOT, images
from ir_pods import STORE_SECRET

from slipway.contracts.project import Project, load_project
from slipway.datasets.samples import open_sample

TABLES = {"ratings.parquet": "samples://movielens-small", "films.parquet": "samples://movielens-small/items"}
PARTS = ("validate", "featurize", "train-classical", "evaluate", "register")


def put_films(store: pafs.FileSystem, prefix: str) -> None:
    """Puts the example's tables under a prefix."""
    for name, sample in TABLES.items():
        pq.write_table(open_sample(sample), f"{prefix}/{name}", filesystem=store)


def film_project(
    folder: Path, prefix: str, *, name: str = "films", kubernetes: Mapping[str, Any] | None = None, **changes: Any
) -> Project:
    """Writes the project file of the example and returns the project.

    Args:
        folder: For the project file.
        prefix: Of the tables, `s3://bucket/prefix`, or a folder of this machine.
        name: Of the project.
        kubernetes: Its part of the file beside images and sizes of pods.
        changes: Further parts of the file.
    """
    content = yaml.safe_load((ROOT / "examples" / "films" / "slipway.yaml").read_text())
    content["name"] = name
    content["data"]["interactions"]["source"] = f"{prefix}/ratings.parquet"
    content["data"]["items"]["source"] = f"{prefix}/films.parquet"
    content["model"]["parameters"] |= {"factors": 32, "epochs": 3}
    content["gates"] = [{"metric": "auc", "minimum": 0.7}]
    content["steps"] = {}
    if kubernetes is not None:
        repository, _, tag = images()["train-classical"].rpartition(":")
        content["kubernetes"] = {
            "images": {
                "file": str(BUILT),
                "pull_policy": os.environ.get("CLUSTER_PULL_POLICY", "IfNotPresent"),
                # Matrix factorization needs no PyTorch, and this image is a tenth of the other.
                "steps": {"train": {"repository": repository, "tag": tag}},
            },
            "s3": {"endpoint": os.environ["AWS_ENDPOINT_URL"], "secret": STORE_SECRET},
            "default": {"cpu": "50m", "memory": "1Gi"},
            "retry": {"retries": 1, "backoff": "1s", "maximum_backoff": "2s"},
            **kubernetes,
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slipway.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return load_project(folder)
