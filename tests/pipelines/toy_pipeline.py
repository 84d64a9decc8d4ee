"""The throwaway steps as KFP components, and their pipeline."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

import json
from typing import Any

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def count_component(
    config: str,
    code: str,
    timeout: str,
    numbers: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[dsl.Markdown],
):
    import toy_steps

    from slipway.components.wrapper import run_component

    run_component(
        "count",
        lambda: (toy_steps.CountRequest, toy_steps.count),
        config=config,
        inputs={},
        outputs={"numbers": numbers},
        code=code,
        timeout=timeout,
        metrics=metrics,
        report=report,
    )


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def double_component(
    numbers: Input[Dataset], config: str, code: str, timeout: str, doubled: Output[Model], metrics: Output[Metrics]
):
    import toy_steps

    from slipway.components.wrapper import run_component

    run_component(
        "double",
        lambda: (toy_steps.DoubleRequest, toy_steps.double),
        config=config,
        inputs={"numbers": numbers.path},
        outputs={"doubled": doubled},
        code=code,
        timeout=timeout,
        metrics=metrics,
    )


def build(settings: dict[str, Any]) -> Any:
    @dsl.pipeline(name="toy")
    def toy() -> None:
        first = count_component(
            config=json.dumps(settings["count"]), code=settings.get("code", ""), timeout=settings.get("timeout", "1m")
        )
        first.set_retry(settings.get("retries", 0), backoff_duration="0s")
        double_component(
            numbers=first.outputs["numbers"],
            config=json.dumps(settings.get("double", {})),
            code=settings.get("code", ""),
            timeout="1m",
        )

    return toy
