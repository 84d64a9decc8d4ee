"""The batch prediction pipeline: observe -> extract -> batch_predict, by the version that serves when it runs."""

from typing import Any

from kfp import dsl

from slipway.components.batch_predict.component import batch_predict
from slipway.components.extract.component import extract
from slipway.components.observe.component import observe
from slipway.pipelines.tasks import PipelineSettings, make_task
from slipway.pipelines.training import with_notification


def build_batch_prediction(settings: dict[str, Any]) -> Any:
    """Returns the pipeline for one project.

    Args:
        settings: `PipelineSettings` as a dict.
    """
    given = PipelineSettings.model_validate(settings)

    def compose() -> None:
        seen = make_task(given, "observe", observe).outputs
        tables = make_task(given, "extract", extract, data_fingerprint=seen["data_fingerprint"]).outputs["tables"]
        make_task(
            given,
            "batch_predict",
            batch_predict,
            tables=tables,
            bundle=seen["bundle"],
            bundle_sha256=seen["bundle_sha256"],
        )

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name=given.name, description="From a table of users to their top items, by the version that serves."
    )
    def batch_prediction() -> None:
        with_notification(given, compose)

    return batch_prediction
