"""The extract step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def extract(
    config: str,
    place: str,
    data_fingerprint: str,
    code_fingerprint: str,
    environment_fingerprint: str,
    timeout: str,
    tables: Output[Dataset],
    metrics: Output[Metrics],
    window_start: str = "",
    window_end: str = "",
) -> None:
    """Copies the sources as they are now."""
    import json

    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.extract.step import ExtractRequest, run

        return ExtractRequest, run

    run_component(
        "extract",
        load,
        config=json.dumps(json.loads(config) | {"window_start": window_start, "window_end": window_end}),
        place=place,
        inputs={},
        outputs={"output": tables},
        data=data_fingerprint,
        code=code_fingerprint,
        environment=environment_fingerprint,
        timeout=timeout,
        metrics=metrics,
    )
