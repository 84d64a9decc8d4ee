"""Projects with a sweep, and Experiments whose trials are the toy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.contracts.project import Project, parse_project
from slipway.pipelines.sweeps.experiment import Place, build_experiment, document

TOY = Path(__file__).with_name("toy_trial.py")
PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: shop
data:
  interactions: {source: events.parquet}
evaluation: {k: [5]}
sweep:
  objective: {metric: ndcg@5}
  algorithm: tpe
  parameters:
    factors: {type: int, min: 4, max: 64, log: true}
    regularization: {type: double, min: 0.001, max: 10, log: true}
  max_trials: 6
"""
X = {"x": {"type": "double", "min": -5, "max": 5}}


def project_with(*overrides: str, text: str = PROJECT) -> Project:
    """Returns the project, changed as `--set` would."""
    return parse_project(text, "slipway.yaml", overrides)


def experiment_of(project: Project) -> dict[str, Any]:
    """Returns the Experiment of a project in a pod's place, as a copy that may be changed."""
    content: dict[str, Any] = json.loads(
        json.dumps(document(build_experiment(project, Place("/data/tuning", "/project"))))
    )
    return content


def toy_experiment(
    parameters: Mapping[str, Any] = X, environment: Mapping[str, str] | None = None, **sweep: Any
) -> dict[str, Any]:
    """Returns an Experiment whose trials run the toy; `sweep` are further fields of the part `sweep:`."""
    settings: dict[str, Any] = {"algorithm": "random", "max_trials": 6, **sweep, "parameters": dict(parameters)}
    settings.setdefault("parallel_trials", min(2, settings["max_trials"]))
    project = project_with(*(f"sweep.{name}={json.dumps(value)}" for name, value in settings.items()))
    content = experiment_of(project)
    container = content["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["python", str(TOY)]
    container["env"] += [{"name": name, "value": value} for name, value in (environment or {}).items()]
    return content
