"""A project's sweep as a Katib Experiment; the same project gives the same bytes.

Both planes run this document: Katib as it is, one machine through `slipway.pipelines.sweeps.runner`, which starts the
command of the trial template with the same variables and reads the objective from the same lines of its output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.components.tune.parameters import PARAMETERS_VARIABLE, REQUEST_VARIABLE
from slipway.contracts.errors import UsageError
from slipway.contracts.evaluation import LIST_METRICS, RANKING_METRICS, WHOLE_METRICS
from slipway.contracts.files import canonical_json, sha256_of
from slipway.contracts.project import Project
from slipway.contracts.project.sweep import ParameterSpec, SweepSpec, text_of
from slipway.contracts.split import SplitSpec
from slipway.pipelines.sweeps.trial_template import SWEEP_LABEL, TRIAL_NAME, trial_template

if TYPE_CHECKING:
    from kubeflow_katib_api.models.v1beta1_experiment import V1beta1Experiment
    from kubeflow_katib_api.models.v1beta1_parameter_spec import V1beta1ParameterSpec

# Katib's own expression knows no @ in a name: it would take "ndcg@10=0.1" for a metric named 10.
METRICS_FORMAT = r"([\w@|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
STORE = "s3://"
PROJECT_LABEL = "slipway.dev/project"
FEATURES_ANNOTATION = "slipway.dev/features"
NAME_LENGTH = 40


@dataclass(frozen=True)
class Place:
    """Where trials find things.

    `features` is the artifact to choose on, `project` the project's folder, `fingerprint` that of the features where it
    is known: sweeps of other features are other sweeps.
    """

    features: str
    project: str
    fingerprint: str = ""


def sweep_of(project: Project) -> SweepSpec:
    """Returns the sweep of a project.

    Raises:
        UsageError: The project file has none.
    """
    if project.sweep is None:
        raise UsageError(
            "the project file has no sweep",
            where=str(project.path),
            remedy="Add a part `sweep:` with an objective and parameters; docs/sweeps.md has one to start from.",
        )
    return project.sweep


def place_on_cluster(project: Project, fingerprint: str = "") -> Place:
    """Returns where a pod finds things: features in the object store of the artifacts, else on the project's volume.

    Args:
        project: The project file, with a sweep.
        fingerprint: That of the features which the sweep starts from, where it is known.
    """
    spec, mount = project.kubernetes, project.kubernetes.project.mount
    features = sweep_of(project).trial.features
    if features is None and spec.s3 is not None and (spec.pipeline_root or "").startswith(STORE):
        part = f"{project.name}-{fingerprint[:12]}" if fingerprint else project.name
        features = f"{str(spec.pipeline_root).rstrip('/')}/tuning/{part}"
    return Place(features=features or f"{mount}/tuning/features", project=mount, fingerprint=fingerprint)


def validation_split(project: Project) -> SplitSpec:
    """Returns how the training part is split once more, so that trials have something to choose on."""
    sweep = sweep_of(project)
    if sweep.validation is not None:
        return sweep.validation
    split = project.split
    if split.method == "given" or split.cut is not None:
        return SplitSpec(method="last_share", share=0.2, minimum_users=split.minimum_users)
    return split


def experiment_name(project: Project, place: Place) -> str:
    """Returns the name of the sweep: the project's, and a hash of what makes it this sweep.

    How many trials there are, in parallel, at most, or failed, is no part of it: that may change while it goes on, as
    it may in Katib.
    """
    sweep = sweep_of(project)
    counts = {"parallel_trials", "max_trials", "max_failed_trials", "trial"}
    identity = {
        "sweep": sweep.model_dump(mode="json", exclude=counts),
        "model": project.model.model_dump(mode="json"),
        "evaluation": project.evaluation.model_dump(mode="json"),
        "split": validation_split(project).model_dump(mode="json"),
        "data": project.data.model_dump(mode="json", by_alias=True),
        "views": project.features.model_dump(mode="json"),
        "features": place.fingerprint,
    }
    digest = sha256_of(canonical_json(identity))[:8]
    return f"{project.name[: NAME_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"


def build_experiment(project: Project, place: Place) -> V1beta1Experiment:
    """Builds the Experiment.

    Args:
        project: The project file, with a sweep.
        place: Where trials find things.

    Raises:
        UsageError: The project has no sweep.
        EnvironmentProblemError: The extra `tune` is not installed.
    """
    from kubeflow_katib_api.models.io_k8s_apimachinery_pkg_apis_meta_v1_object_meta import (
        IoK8sApimachineryPkgApisMetaV1ObjectMeta,
    )
    from kubeflow_katib_api.models.v1beta1_experiment import V1beta1Experiment
    from kubeflow_katib_api.models.v1beta1_experiment_spec import V1beta1ExperimentSpec

    sweep = sweep_of(project)
    return V1beta1Experiment(
        api_version="kubeflow.org/v1beta1",
        kind="Experiment",
        metadata=IoK8sApimachineryPkgApisMetaV1ObjectMeta(
            name=experiment_name(project, place),
            namespace=project.kubernetes.namespace,
            labels={"app.kubernetes.io/part-of": "slipway", PROJECT_LABEL: project.name},
            annotations={FEATURES_ANNOTATION: place.fingerprint} if place.fingerprint else None,
        ),
        spec=V1beta1ExperimentSpec(
            **_search(project, sweep),
            parameters=[_parameter(name, spec) for name, spec in sweep.parameters.items()],
            parallel_trial_count=sweep.parallel_trials,
            max_trial_count=sweep.max_trials,
            # Unset, an experiment of which every trial fails would end as succeeded.
            max_failed_trial_count=sweep.max_failed_trials,
            resume_policy="Never",
            trial_template=_template(project, sweep, place),
        ),
    )


def render(experiment: V1beta1Experiment) -> str:
    """Returns the Experiment as YAML."""
    import yaml

    return yaml.safe_dump(document(experiment), sort_keys=False, allow_unicode=True, width=120)


def document(experiment: V1beta1Experiment) -> dict[str, Any]:
    """Returns the Experiment as plain data, in the order in which people read it."""
    content: dict[str, Any] = experiment.to_dict()
    return {key: content[key] for key in ("apiVersion", "kind", "metadata", "spec")}


def _search(project: Project, sweep: SweepSpec) -> dict[str, Any]:
    from kubeflow_katib_api.models.v1beta1_algorithm_setting import V1beta1AlgorithmSetting
    from kubeflow_katib_api.models.v1beta1_algorithm_spec import V1beta1AlgorithmSpec
    from kubeflow_katib_api.models.v1beta1_collector_spec import V1beta1CollectorSpec
    from kubeflow_katib_api.models.v1beta1_early_stopping_setting import V1beta1EarlyStoppingSetting
    from kubeflow_katib_api.models.v1beta1_early_stopping_spec import V1beta1EarlyStoppingSpec
    from kubeflow_katib_api.models.v1beta1_filter_spec import V1beta1FilterSpec
    from kubeflow_katib_api.models.v1beta1_metric_strategy import V1beta1MetricStrategy
    from kubeflow_katib_api.models.v1beta1_metrics_collector_spec import V1beta1MetricsCollectorSpec
    from kubeflow_katib_api.models.v1beta1_objective_spec import V1beta1ObjectiveSpec
    from kubeflow_katib_api.models.v1beta1_source_spec import V1beta1SourceSpec

    metrics = measured_metrics(project)
    objective, early = sweep.objective, sweep.early_stopping
    settings = [V1beta1AlgorithmSetting(name=key, value=value) for key, value in _algorithm_settings(sweep).items()]
    return {
        "objective": V1beta1ObjectiveSpec(
            type=objective.type,
            goal=objective.goal,
            objective_metric_name=objective.metric,
            additional_metric_names=[name for name in metrics if name != objective.metric],
            # A trial is what it ended as; by default Katib takes the best value on its way.
            metric_strategies=[
                V1beta1MetricStrategy(name=name, value="latest") for name in dict.fromkeys([objective.metric, *metrics])
            ],
        ),
        "algorithm": V1beta1AlgorithmSpec(
            algorithm_name=sweep.algorithm.name, algorithm_settings=settings if settings else None
        ),
        "early_stopping": None
        if early is None
        else V1beta1EarlyStoppingSpec(
            algorithm_name=early.name,
            algorithm_settings=[
                V1beta1EarlyStoppingSetting(name="min_trials_required", value=str(early.min_trials)),
                V1beta1EarlyStoppingSetting(name="start_step", value=str(early.start_step)),
            ],
        ),
        "metrics_collector_spec": V1beta1MetricsCollectorSpec(
            collector=V1beta1CollectorSpec(kind="StdOut"),
            source=V1beta1SourceSpec(filter=V1beta1FilterSpec(metrics_format=[METRICS_FORMAT])),
        ),
    }


def measured_metrics(project: Project) -> list[str]:
    """Returns the names of the metrics that the evaluation prints."""
    cut = [f"{name}@{k}" for k in project.evaluation.k for name in (*RANKING_METRICS, *LIST_METRICS)]
    return [*cut, *WHOLE_METRICS]


def _algorithm_settings(sweep: SweepSpec) -> dict[str, str]:
    own = sweep.algorithm
    if own.name == "hyperband":
        return {"resource_name": str(own.resource), "r_l": str(own.maximum_resource), "eta": str(own.eta)}
    # Katib's sobol starts its sequence at the beginning and takes no setting.
    return {} if own.name == "sobol" else {"random_state": str(own.seed)}


def _parameter(name: str, spec: ParameterSpec) -> V1beta1ParameterSpec:
    from kubeflow_katib_api.models.v1beta1_feasible_space import V1beta1FeasibleSpace
    from kubeflow_katib_api.models.v1beta1_parameter_spec import V1beta1ParameterSpec

    if spec.values:
        space = V1beta1FeasibleSpace(list=[text_of(value) for value in spec.values])
    else:
        number = _whole if spec.type == "int" else repr
        space = V1beta1FeasibleSpace(
            min=number(spec.min),
            max=number(spec.max),
            step=None if spec.step is None else number(spec.step),
            distribution="logUniform" if spec.log else None,
        )
    return V1beta1ParameterSpec(name=name, parameter_type=spec.type, feasible_space=space)


def _whole(value: float | None) -> str:
    assert value is not None
    return str(int(value))


def _template(project: Project, sweep: SweepSpec, place: Place) -> Any:
    from kubeflow_katib_api.models.v1beta1_trial_parameter_spec import V1beta1TrialParameterSpec
    from kubeflow_katib_api.models.v1beta1_trial_template import V1beta1TrialTemplate

    request = {
        "features": place.features,
        "output": "trial",
        "checkpoint": "checkpoint",
        "objective": sweep.objective.metric,
        # Measuring after each epoch costs a ranking each: only where somebody looks at it.
        "report_epochs": sweep.early_stopping is not None or sweep.algorithm.name == "hyperband",
        "name": project.name,
        "model": project.model.model_dump(mode="json"),
        "evaluation": project.evaluation.model_dump(mode="json"),
        "split": validation_split(project).model_dump(mode="json"),
        "types": {name: spec.type for name, spec in sweep.parameters.items()},
        "project_directory": place.project,
    }
    placeholders = {name: f"${{trialParameters.{name}}}" for name in sweep.parameters}
    variables = {REQUEST_VARIABLE: _json(request), PARAMETERS_VARIABLE: _json(placeholders)}
    names = [V1beta1TrialParameterSpec(name=TRIAL_NAME, reference="${trialSpec.Name}")]
    names += [V1beta1TrialParameterSpec(name=name, reference=name) for name in sweep.parameters]
    return V1beta1TrialTemplate(
        trial_parameters=names,
        **trial_template(
            project,
            sweep,
            variables,
            features=place.features,
            labels={PROJECT_LABEL: project.name, SWEEP_LABEL: experiment_name(project, place)},
        ),
    )


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, default=_text)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Path) else repr(value)
