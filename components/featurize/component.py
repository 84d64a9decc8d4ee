"""The featurize step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Dataset, Input, Markdown, Metrics, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def featurize(
    dataset: Input[Dataset],
    config: str,
    place: str,
    data_fingerprint: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    features: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[Markdown],
) -> None:
    """Splits the interactions and makes features as of each one's own time."""
    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.featurize.step import FeaturizeRequest, run

        return FeaturizeRequest, run

    run_component(
        "featurize",
        load,
        config=config,
        place=place,
        inputs={"dataset": dataset.path},
        outputs={"output": features},
        data=data_fingerprint,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
        report=report,
    )
