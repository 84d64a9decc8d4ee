"""The register step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def register(
    dataset: Input[Dataset],
    features: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    config: str,
    place: str,
    data_fingerprint: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    registration: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[Markdown],
) -> None:
    """Registers a model that passed its gates."""
    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.register.step import RegisterRequest, run

        return RegisterRequest, run

    def surroundings():  # type: ignore[no-untyped-def]
        import json
        from pathlib import Path

        from slipway.components.registry_state import registry_fingerprint

        where = json.loads(place)
        name = json.loads(config)["name"]
        return registry_fingerprint(Path(where["project_directory"]), where.get("tracking_uri"), name)

    run_component(
        "register",
        load,
        config=config,
        place=place,
        inputs={"dataset": dataset.path, "features": features.path, "model": model.path, "evaluation": evaluation.path},
        outputs={"output": registration},
        data=data_fingerprint,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
        report=report,
        surroundings=surroundings,
    )
