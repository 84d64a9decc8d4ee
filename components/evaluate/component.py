"""The evaluate step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Markdown, Metrics, Model, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate(
    dataset: Input[Dataset],
    features: Input[Dataset],
    model: Input[Model],
    config: str,
    place: str,
    data_fingerprint: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[Markdown],
    confusion: Output[ClassificationMetrics],
    page: Output[HTML],
    champion: str = "",
    champion_sha256: str = "",
) -> None:
    """Measures a model on held-out interactions and checks the gates."""
    import json
    from pathlib import Path

    from slipway.components.evaluate.dashboard import publish
    from slipway.components.wrapper import bundle_fields, run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.evaluate.step import EvaluateRequest, run

        return EvaluateRequest, run

    run_component(
        "evaluate",
        load,
        config=config,
        # On a cluster, which version serves is known only when the run has begun.
        place=json.dumps(json.loads(place) | bundle_fields("champion", champion, champion_sha256)),
        inputs={"dataset": dataset.path, "features": features.path, "model": model.path},
        outputs={"output": evaluation},
        data=data_fingerprint + champion_sha256,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
        report=report,
    )
    publish(Path(evaluation.path), Path(features.path), confusion, page)
