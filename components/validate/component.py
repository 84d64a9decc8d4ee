"""The validate step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Dataset, Input, Markdown, Metrics, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def validate(
    config: str,
    place: str,
    data_fingerprint: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    dataset: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[Markdown],
    # Not Optional: on a cluster KFP's executor cannot make an artifact of that.
    tables: Input[Dataset] = None,
) -> None:
    """Checks raw tables and writes them in canonical form."""
    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.validate.step import ValidateRequest, run

        return ValidateRequest, run

    run_component(
        "validate",
        load,
        config=config,
        place=place,
        inputs={} if tables is None else {"tables": tables.path},
        outputs={"output": dataset},
        data=data_fingerprint,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
        report=report,
    )
