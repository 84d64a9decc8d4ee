"""The training pipeline: observe -> extract -> validate -> featurize -> train -> evaluate -> register.

One definition for both places: `slipway run` hands it to kfp.local, `slipway compile` writes it for a cluster. The
first two steps are for sources that the pipeline does not find beside the project file: `slipway run` needs neither.
"""

from typing import Any

from kfp import dsl

from slipway.components.evaluate.component import evaluate
from slipway.components.extract.component import extract
from slipway.components.featurize.component import featurize
from slipway.components.notify.component import notify
from slipway.components.observe.component import observe
from slipway.components.register.component import register
from slipway.components.train.component import train
from slipway.components.validate.component import validate
from slipway.pipelines.tasks import PipelineSettings, make_task


def build_training(settings: dict[str, Any]) -> Any:
    """Returns the pipeline for one project.

    Args:
        settings: `PipelineSettings` as a dict; the steps may end early, at any of those from validate on. Retraining is
            this pipeline with a window and a gate against the version that serves.
    """
    given = PipelineSettings.model_validate(settings)
    steps = given.steps

    def compose(window_end: Any) -> None:
        copied: dict[str, Any] = {}
        serving: dict[str, Any] = {}
        if "observe" in steps:
            seen = make_task(given, "observe", observe, window_end=window_end).outputs
            tables = make_task(
                given,
                "extract",
                extract,
                data_fingerprint=seen["data_fingerprint"],
                window_start=seen["window_start"],
                window_end=seen["window_end"],
            ).outputs["tables"]
            copied = {"tables": tables, "data_fingerprint": seen["data_fingerprint"]}
            serving = {"champion": seen["bundle"], "champion_sha256": seen["bundle_sha256"]}
        dataset = make_task(given, "validate", validate, **copied).outputs["dataset"]
        if "featurize" in steps:
            features = make_task(given, "featurize", featurize, dataset=dataset).outputs["features"]
        if "train" in steps:
            model = make_task(given, "train", train, features=features).outputs["model"]
        if "evaluate" in steps:
            evaluation = make_task(
                given, "evaluate", evaluate, dataset=dataset, features=features, model=model, **serving
            ).outputs["evaluation"]
        if "register" in steps:
            make_task(
                given, "register", register, dataset=dataset, features=features, model=model, evaluation=evaluation
            )

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name=given.name, description="From raw interactions to a registered model."
    )
    def training(window_end: str = "") -> None:
        with_notification(given, lambda: compose(window_end))

    return training


def with_notification(settings: PipelineSettings, compose: Any) -> None:
    """Composes the tasks, and a notify task that runs when they have ended, however they ended."""
    if settings.notification is None:
        compose()
        return
    told = make_task(settings, "notify", notify, config=settings.notification)
    with dsl.ExitHandler(told, name="pipeline"):
        compose()
