"""The notify step as a KFP component, for an exit handler."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from kfp import dsl
from kfp.dsl import Metrics, Output, PipelineTaskFinalStatus

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def notify(
    status: PipelineTaskFinalStatus,
    config: str,
    code_fingerprint: str,
    timeout: str,
    metrics: Output[Metrics],
) -> None:
    """Tells people how the run ended."""
    import json

    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.notify.step import NotifyRequest, run

        return NotifyRequest, run

    run_component(
        "notify",
        load,
        config=json.dumps(
            json.loads(config)
            | {
                "state": status.state,
                "error": status.error_message or "",
                "run": status.pipeline_job_resource_name or "",
            }
        ),
        inputs={},
        outputs={},
        code=code_fingerprint,
        timeout=timeout,
        metrics=metrics,
        surroundings=lambda: None,
    )
