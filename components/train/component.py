"""The train step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Dataset, Input, Markdown, Metrics, Model, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def train(
    features: Input[Dataset],
    config: str,
    place: str,
    data_fingerprint: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    model: Output[Model],
    metrics: Output[Metrics],
    report: Output[Markdown],
) -> None:
    """Trains a model and writes its bundle."""
    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.train.step import TrainRequest, run

        return TrainRequest, run

    run_component(
        "train",
        load,
        config=config,
        place=place,
        inputs={"features": features.path},
        outputs={"output": model},
        data=data_fingerprint,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
        report=report,
    )
