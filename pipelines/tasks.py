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
    pod = settings.pods.get(step)
    factor, longest = _retry_bounds(own, on_cluster=pod is not None)
    task.set_retry(
        own.retries,
        backoff_duration=_whole_seconds(own.retry_backoff),
        backoff_factor=factor,
        backoff_max_duration=f"{round(longest)}s",
    )
    task.set_caching_options(step not in STEPS_WITH_EFFECTS)
    if pod is not None:
        from kfp import kubernetes

        apply_to_task(task, pod)
        kubernetes.use_field_path_as_env(task, "SLIPWAY_RUN_ID", "metadata.labels['pipeline/runid']")
        limit = parse_duration(own.timeout).total_seconds()
        kubernetes.set_timeout(task, round(limit) + POD_GRACE_SECONDS)
    return task


def _retry_bounds(own: StepSettings, *, on_cluster: bool) -> tuple[float, float]:
    """Returns (factor by which pauses grow, seconds of KFP's `backoff_max_duration`).

    On a cluster that field bounds the time from the first attempt's start to the last one's, not a pause: a step that
    takes longer than it would never be tried again. So it is the time that all attempts and pauses may take, and the
    longest pause is kept by the factor.
    """
    first, most = (parse_duration(text).total_seconds() for text in (own.retry_backoff, own.maximum_backoff))
    if not on_cluster:
        return 2.0, most
    growing = own.retries - 1
    factor = min(2.0, max(most / first, 1.0) ** (1 / growing)) if growing > 0 and first > 0 else 2.0
    pauses = sum(first * factor**number for number in range(own.retries))
    attempt = parse_duration(own.timeout).total_seconds() + POD_GRACE_SECONDS
    return round(factor, 3), attempt * max(own.retries, 1) + pauses


def _whole_seconds(duration: str) -> str:
    # KFP knows no fractions of a second.
    return f"{round(parse_duration(duration).total_seconds())}s"
