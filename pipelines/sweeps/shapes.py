"""Whether the parts of an Experiment are of the kind that they must be: a mapping, a list of texts, a number.

What this finds right, the rules of `slipway.pipelines.sweeps.lint` can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TEXT, NUMBER = "text", "number"

_SETTINGS = {"algorithmName": TEXT, "algorithmSettings": [{"name": TEXT, "value": TEXT}]}
_METADATA = {"name": TEXT, "namespace": TEXT, "annotations": {}, "labels": {}}
_CONTAINER = {
    "name": TEXT, "image": TEXT, "command": [TEXT], "args": [TEXT], "env": [{"name": TEXT}], "volumeMounts": [{}],
    "resources": {}, "securityContext": {},
}  # fmt: skip
_POD = {"metadata": _METADATA, "spec": {"containers": [_CONTAINER], "volumes": [{"name": TEXT}], "tolerations": [{}]}}
_TRIAL = {
    "apiVersion": TEXT,
    "kind": TEXT,
    "metadata": _METADATA,
    "spec": {
        "activeDeadlineSeconds": NUMBER,
        "backoffLimit": NUMBER,
        "template": _POD,
        "runtimeRef": {"name": TEXT},
        "trainer": {"command": [TEXT], "args": [TEXT], "env": [{"name": TEXT}], "resourcesPerNode": {}},
        "runtimePatches": [{}],
    },
}
_EXPERIMENT: dict[str, Any] = {
    "apiVersion": TEXT,
    "kind": TEXT,
    "metadata": _METADATA,
    "spec": {
        "objective": {
            "objectiveMetricName": TEXT,
            "additionalMetricNames": [TEXT],
            "metricStrategies": [{"name": TEXT, "value": TEXT}],
        },
        "algorithm": _SETTINGS,
        "earlyStopping": _SETTINGS,
        "parameters": [{"name": TEXT, "parameterType": TEXT, "feasibleSpace": {"list": [TEXT]}}],
        "metricsCollectorSpec": {"collector": {"kind": TEXT}, "source": {"filter": {"metricsFormat": [TEXT]}}},
        "resumePolicy": TEXT,
        "trialTemplate": {
            "trialParameters": [{"name": TEXT, "reference": TEXT}],
            "trialSpec": _TRIAL,
            "primaryContainerName": TEXT,
            "successCondition": TEXT,
            "failureCondition": TEXT,
            "primaryPodLabels": {},
        },
    },
}


def misshapen(document: Any) -> Iterator[tuple[str, str]]:
    """Yields (path, what is wrong) for each part of an Experiment that is of the wrong kind; absent parts are right."""
    yield from _check(document, _EXPERIMENT, "")


def _check(content: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(shape, dict):
        if not isinstance(content, dict):
            yield path, f"{content!r} must be a mapping"
            return
        for key, part in shape.items():
            if content.get(key) is not None:
                yield from _check(content[key], part, f"{path}.{key}".removeprefix("."))
    elif isinstance(shape, list):
        if not isinstance(content, list):
            yield path, f"{content!r} must be a list"
            return
        for index, row in enumerate(content):
            yield from _check(row, shape[0], f"{path}[{index}]")
    elif shape == TEXT and not isinstance(content, str):
        yield path, f"{content!r} must be text: write it in quotes"
    elif shape == NUMBER and (isinstance(content, bool) or not isinstance(content, int)):
        yield path, f"{content!r} must be a whole number"


def empty_values(content: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yields (path, what is wrong) for values that are written and say nothing; Katib refuses a Job with one."""
    rows: Iterator[tuple[str, Any]]
    if isinstance(content, Mapping):
        rows = ((f"{path}.{key}", value) for key, value in content.items())
    elif isinstance(content, list):
        rows = ((f"{path}[{index}]", value) for index, value in enumerate(content))
    else:
        return
    for here, value in rows:
        if value is None or value in ("", []):
            yield here, "it is empty: leave it out, as Katib refuses a Job that says nothing there"
        else:
            yield from empty_values(value, here)
