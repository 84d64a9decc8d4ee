"""From the settings of a step to a task of Kubeflow Pipelines; every pipeline makes its tasks here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.contracts.durations import parse_duration
from slipway.pipelines.kubernetes.pods import PodSettings, apply_to_task
from slipway.pipelines.settings import StepSettings

# These act on something outside, or look at it: Kubeflow Pipelines must not take their outcome from its cache.
STEPS_WITH_EFFECTS = frozenset({"observe", "register", "notify"})

# Seconds that the pod may outlive the step's own time limit: pulling the image, copying artifacts.
POD_GRACE_SECONDS = 900


class PipelineSettings(BaseModel):
    """What a pipeline of one project is told.

    `steps` are the settings of its steps, which may end early. With `pods` the pipeline is for a cluster.
    `notification` is the configuration of the notify step, which then runs at the end whatever became of the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    steps: dict[str, StepSettings]
    pods: dict[str, PodSettings] = Field(default_factory=dict)
    notification: str | None = None


def make_task(settings: PipelineSettings, step: str, component: Any, **inputs: Any) -> Any:
    """Returns a task with the step's parameters, retries, time limit, cache and pod.

    Args:
        settings: Those of the pipeline.
        step: The step.
        component: Its KFP component.
        inputs: Artifacts and parameters of earlier tasks; they replace settings of the same name.
    """
    own = settings.steps[step]
    given: Mapping[str, Any] = {
        "config": own.config,
        "place": own.place,
        "data_fingerprint": own.data_fingerprint,
        "code_fingerprint": own.code_fingerprint,
        "environment_fingerprint": own.environment_fingerprint,
        "timeout": own.timeout,
    }
    known = set(component.component_spec.inputs)
    task = component(**{name: value for name, value in given.items() if name in known} | inputs)
    task.set_retry(
        own.retries,
        backoff_duration=_whole_seconds(own.retry_backoff),
        backoff_factor=2.0,
        backoff_max_duration=_whole_seconds(own.maximum_backoff),
    )
    task.set_caching_options(step not in STEPS_WITH_EFFECTS)
    pod = settings.pods.get(step)
    if pod is not None:
        from kfp import kubernetes

        apply_to_task(task, pod)
        kubernetes.use_field_path_as_env(task, "SLIPWAY_RUN_ID", "metadata.labels['pipeline/runid']")
        limit = parse_duration(own.timeout).total_seconds()
        kubernetes.set_timeout(task, round(limit) + POD_GRACE_SECONDS)
    return task


def _whole_seconds(duration: str) -> str:
    # KFP knows no fractions of a second.
    return f"{round(parse_duration(duration).total_seconds())}s"
