"""Runs one trial of a sweep: the train step with the trial's parameters, then the evaluate step.

    <output>/evaluation/    the evaluation artifact, without slices, gates and champion
    <output>/curves.json    what the family reported after each epoch

The model itself is not kept: the best parameters are trained again by the pipeline, on all training data.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.evaluate import step as evaluate
from slipway.components.progress import Progress
from slipway.components.train import step as train
from slipway.components.tune.parameters import ParameterType, typed
from slipway.components.tune.places import local_features
from slipway.components.tune.reports import ObjectiveReports, WithoutMetrics
from slipway.components.tune.validation import ValidationMetric
from slipway.contracts.errors import DataError
from slipway.contracts.evaluation import EvaluationSpec
from slipway.contracts.project.schema import ModelSpec
from slipway.contracts.split import SplitSpec


class TrialRequest(BaseModel):
    """One trial.

    `features` is the artifact to train and choose on (see `slipway.components.tune.holdout`), a folder or `s3://...`;
    `split` says how it was split. With `report_epochs` the objective is measured after each epoch, for whoever stops
    trials early. `parameters` are the trial's values as text, `types` says what each stands for; they replace those of
    `model.parameters`. `run_id` names the trial. `checkpoint` is where a killed trial goes on from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: str
    output: Path
    objective: str
    report_epochs: bool = False
    name: str = "model"
    model: ModelSpec = ModelSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    split: SplitSpec = SplitSpec()
    parameters: dict[str, str] = Field(default_factory=dict)
    types: dict[str, ParameterType] = Field(default_factory=dict)
    project_directory: Path = Path()
    run_id: str | None = None
    checkpoint: Path | None = None


class TrialResult(BaseModel):
    """What the trial found. `parameters` are all of the model's, `metrics` those of the evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    evaluation: str
    model: str
    parameters: dict[str, Any]
    epochs: int
    warnings: tuple[str, ...]
    metrics: dict[str, float]


def run(request: TrialRequest, progress: Progress) -> TrialResult:
    """Trains and measures.

    Raises:
        UsageError: A parameter is unknown to the family, or its value is not of its type or out of range.
        DataError: The data cannot be learnt from, or the objective has no value.
        ArtifactError: The features are not whole.
        ServiceError: The object store does not answer.
        EnvironmentProblemError: A package is missing or the disk is full.
    """
    values = typed(request.parameters, request.types)
    model = request.model.model_copy(update={"parameters": {**request.model.parameters, **values}})
    bundle = request.output / "model"
    features = local_features(request.features, request.output.with_name("features"))
    measure = None
    if request.report_epochs:
        measure = ValidationMetric(features, request.evaluation, request.objective, request.project_directory)
    trained = train.run(
        train.TrainRequest(
            features=features,
            output=bundle,
            name=request.name,
            model=model,
            project_directory=request.project_directory,
            run_id=request.run_id,
            # The sweep tells MLflow of its trials: loading MLflow takes longer than many a trial.
            tracked=False,
            checkpoint=request.checkpoint,
        ),
        ObjectiveReports(progress, request.objective),
        measure,
    )
    evaluated = evaluate.run(
        evaluate.EvaluateRequest(
            features=features,
            model=bundle,
            output=request.output / "evaluation",
            # Only the value of the objective counts here: slices and wide bootstraps are the pipeline's.
            evaluation=request.evaluation.model_copy(update={"slices": (), "bootstrap_samples": 100}),
            split=request.split,
            project_directory=request.project_directory,
        ),
        WithoutMetrics(progress),
    )
    if request.objective not in evaluated.metrics:
        raise DataError(
            f"the evaluation gives no value for {request.objective}",
            where="objective",
            remedy=f"It has: {', '.join(evaluated.metrics)}.",
        )
    shutil.copyfile(bundle / train.CURVES, request.output / train.CURVES)
    shutil.rmtree(bundle)
    return TrialResult(
        output=request.output,
        evaluation=evaluated.fingerprint,
        model=trained.fingerprint,
        parameters=trained.parameters,
        epochs=trained.epochs,
        warnings=(*trained.warnings, *evaluated.warnings),
        metrics=evaluated.metrics,
    )
