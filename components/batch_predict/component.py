"""The batch_predict step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def batch_predict(
    tables: Input[Dataset],
    bundle: str,
    bundle_sha256: str,
    config: str,
    place: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    predictions: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Predicts for a table of users, or scores pairs."""
    import json

    from slipway.components.wrapper import bundle_fields, run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.batch_predict.artifact import BatchPredictionsRequest, run

        return BatchPredictionsRequest, run

    run_component(
        "batch_predict",
        load,
        config=config,
        place=json.dumps(json.loads(place) | bundle_fields("bundle", bundle, bundle_sha256)),
        inputs={"tables": tables.path},
        outputs={"output": predictions},
        # The folder of a version says nothing about its content.
        data=bundle_sha256,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
    )
