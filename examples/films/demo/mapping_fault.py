"""Registers a bundle whose films are mixed up: what a wrong id mapping in an export job does to a good model.

Every file is whole, every hash is right, the metrics are those of the good model, every answer is well formed and
quick. Only the films are the wrong ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from slipway.contracts.bundle import WEIGHTS, bundle_digest, read_bundle, write_bundle
from slipway.models.registry import SHA256_TAG, ModelVersion, registry_for
from slipway.models.tensors import read_tensors, write_tensors


def register_mixed_up(project: Path, good: ModelVersion) -> ModelVersion:
    """Registers a copy of a good version in which item i has the factors of another item.

    Args:
        project: Folder of the project file.
        good: A registered version of the family matrix_factorization.
    """
    manifest = read_bundle(good.bundle_dir)
    arrays = read_tensors(good.bundle_dir / WEIGHTS)
    mixed = np.random.default_rng(20160101).permutation(manifest.counts.items)
    draft = good.bundle_dir.parent / ".mixed-up"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(good.bundle_dir, draft)
    write_tensors(draft / WEIGHTS, {**arrays, "item_factors": arrays["item_factors"][mixed]})
    digest = bundle_digest(
        write_bundle(
            draft,
            family=manifest.family,
            name=manifest.name,
            counts=manifest.counts,
            views=manifest.views,
            parameters=manifest.parameters,
            metrics=manifest.metrics,
            lineage=manifest.lineage,
        )
    )
    bundle = good.bundle_dir.parent / digest[:12]
    shutil.rmtree(bundle, ignore_errors=True)
    draft.rename(bundle)
    tags = {name: value for name, value in good.tags.items() if name != SHA256_TAG}
    return registry_for(project).register(bundle, good.name, tags)
