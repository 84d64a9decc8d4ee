"""The artifact of a sweep: its Experiment with Katib's status, its trials, the best parameters, and a page."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.contracts.artifacts import read_manifest, write_artifact
from slipway.contracts.files import write_json
from slipway.pipelines.sweeps.page import write_page
from slipway.pipelines.sweeps.records import SweepReport, katib_status
from slipway.pipelines.sweeps.search_space import as_text

BEST = "best.json"
PAGE = "report.html"


def write_result(
    report: SweepReport,
    document: Mapping[str, Any],
    features: Path | None,
    target: Path,
    importances: Mapping[str, float],
) -> None:
    """Writes the artifact, and into the report where it is.

    Args:
        report: What became of the sweep.
        document: The Experiment.
        features: The artifact that trials chose on, where it is at hand.
        target: The artifact.
        importances: Share of each parameter in how the good trials differ.

    Raises:
        EnvironmentProblemError: The disk is full.
    """
    texts = {trial.name: as_text(trial.parameters) for trial in report.trials}
    with write_artifact(target, kind="sweep", slipway_version=importlib.metadata.version("slipway")) as draft:
        if features is not None:
            draft.parents = [read_manifest(features, kind="features").as_parent("features")]
        draft.metadata = {"experiment": report.name, "objective": report.metric, "status": report.status}
        write_json(draft.path / "experiment.json", {**document, "status": katib_status(report, texts)})
        write_json(draft.path / "trials.json", [trial.model_dump(mode="json") for trial in report.trials])
        best = report.best
        if best is not None:
            content = {"trial": best.name, "parameters": best.parameters, report.metric: best.value}
            baseline = report.baseline.value if report.baseline is not None else None
            write_json(draft.path / BEST, {**content, "baseline": baseline})
        write_page(report, dict(importances), draft.path / PAGE)
    report.artifact, report.page = target, target / PAGE
