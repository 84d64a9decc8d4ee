"""A sweep as a Katib Experiment: whole, the same bytes each time, and without what Katib would refuse."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from sweeps import experiment_of, project_with

from slipway.contracts.errors import UsageError
from slipway.pipelines.sweeps.experiment import (
    Place,
    build_experiment,
    document,
    experiment_name,
    place_on_cluster,
    render,
    validation_split,
)
from slipway.pipelines.sweeps.lint import check_document, lint
from slipway.pipelines.sweeps.trial_process import container_of, manifest_of, metric_lines

NUMBERS = "sweep.parameters={factors: {type: int, min: 4, max: 64, step: 4}, epochs: {type: int, min: 1, max: 9}}"
LOGS = "sweep.parameters={regularization: {type: double, min: 0.1, max: 9, log: true}}"
ALGORITHMS = {
    "random": [], "tpe": [], "cmaes": [NUMBERS], "sobol": [NUMBERS], "grid": [NUMBERS],
    "bayesianoptimization": [LOGS],
    "hyperband": [NUMBERS, "sweep.max_trials=20", "sweep.parallel_trials=9",
                  "sweep.algorithm={name: hyperband, resource: epochs, maximum_resource: 9}"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Job", "TrainJob"])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_and_kind_of_trial_makes_an_experiment_without_fault(algorithm: str, kind: str) -> None:
    own = ALGORITHMS[algorithm]
    named = [] if algorithm == "hyperband" else [f"sweep.algorithm={algorithm}"]
    content = experiment_of(project_with(*own, *named, f"sweep.trial.kind={kind}", "sweep.early_stopping=medianstop"))
    assert [str(finding) for finding in lint(content)] == []
    assert content["spec"]["algorithm"]["algorithmName"] == algorithm
    assert content["spec"]["maxFailedTrialCount"] == 3
    assert content["spec"]["trialTemplate"]["trialSpec"]["kind"] == kind


def test_the_same_project_gives_the_same_bytes_and_counts_do_not_change_the_name() -> None:
    def rendered(*overrides: str) -> str:
        project = project_with(*overrides)
        return render(build_experiment(project, place_on_cluster(project)))

    assert rendered() == rendered()
    assert (
        yaml.safe_load(rendered())["metadata"]["name"]
        == yaml.safe_load(rendered("sweep.max_trials=9"))["metadata"]["name"]
    )
    assert rendered() != rendered("model.seed=7")
    first, other = project_with(), project_with("sweep.algorithm=random")
    names = {
        experiment_name(first, Place("", "")),
        experiment_name(other, Place("", "")),
        experiment_name(first, Place("", "", "f")),
    }
    assert len(names) == 3
    long = project_with(f"name={'a' * 40}")
    assert len(experiment_name(long, Place("", ""))) == 40


def test_gpu_nodes_spot_and_secrets_of_the_project_reach_the_trial() -> None:
    content = experiment_of(
        project_with(
            "kubernetes.steps={tune: {memory: 8Gi, spot: true}}",
            "kubernetes.images.steps={tune: {repository: registry.example/tune, digest: 'sha256:" + "a" * 64 + "'}}",
            "kubernetes.secrets=[{secret: mlflow, env: {MLFLOW_TRACKING_PASSWORD: password}}]",
            "sweep.trial.resources={gpu: {count: 2}, node_selector: {pool: gpu}, tolerations: [{key: gpu}]}",
            "sweep.trial.timeout=30m",
        )
    )
    job = content["spec"]["trialTemplate"]["trialSpec"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/tune@sha256:" + "a" * 64
    assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 2}
    assert pod["nodeSelector"] == {"pool": "gpu", "cloud.google.com/gke-spot": "true"}
    assert {row["key"] for row in pod["tolerations"]} == {"gpu", "cloud.google.com/gke-spot"}
    assert {"name": "mlflow", "key": "password"} in [
        row["valueFrom"]["secretKeyRef"] for row in container["env"] if "valueFrom" in row
    ]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"]) == (0, 1800)
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_a_train_job_gives_the_runtime_what_a_job_gives_its_pod() -> None:
    overrides = [
        "sweep.trial.resources={gpu: {count: 1}, node_selector: {pool: gpu}}",
        "sweep.trial.runtime=torch-large",
    ]
    job = experiment_of(project_with(*overrides))["spec"]["trialTemplate"]
    train_job = experiment_of(project_with(*overrides, "sweep.trial.kind=TrainJob"))["spec"]["trialTemplate"]
    spec = train_job["trialSpec"]["spec"]
    assert spec["runtimeRef"] == {"name": "torch-large"}
    pod = job["trialSpec"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert spec["trainer"]["command"] == container["command"]
    assert spec["trainer"]["env"] == container["env"]
    assert spec["trainer"]["resourcesPerNode"] == container["resources"]
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    patched = replicated["template"]["spec"]["template"]["spec"]
    assert patched["nodeSelector"] == pod["nodeSelector"]
    assert patched["containers"][0]["volumeMounts"] == container["volumeMounts"]
    assert train_job["primaryPodLabels"]["batch.kubernetes.io/job-completion-index"] == "0"


def test_what_a_trial_is_given_survives_katibs_text_and_its_shell() -> None:
    project = project_with(
        "sweep.parameters="
        "{hidden: {type: categorical, values: [[64, 32], [8]]}, dropout: {type: double, min: 0, max: 1}}"
    )
    content = experiment_of(project)
    manifest = manifest_of(content, "shop-1", {"hidden": "[64,32]", "dropout": "1e-05"})
    command, variables, limit = container_of(content, manifest)
    assert shlex.split(" ".join(command)) == command
    assert command[-1] == "shop-1"
    assert json.loads(variables["SLIPWAY_TRIAL_PARAMETERS"]) == {"hidden": "[64,32]", "dropout": "1e-05"}
    assert json.loads(variables["SLIPWAY_TRIAL_REQUEST"])["types"] == {"hidden": "categorical", "dropout": "double"}
    assert limit == 3600


def test_the_collector_reads_the_names_that_the_evaluation_prints() -> None:
    pattern = metric_lines(experiment_of(project_with()))
    lines = ["ndcg@5=0.25", "ndcg@5 = 1e-05", "loss = -3.5E+2", "mrr=0.5"]
    assert [pattern.search(line).group(1, 2) for line in lines] == [  # type: ignore[union-attr]
        ("ndcg@5", "0.25"), ("ndcg@5", "1e-05"), ("loss", "-3.5E+2"), ("mrr", "0.5"),
    ]  # fmt: skip
    # Go's expressions, which Katib uses, know neither look-around nor possessive repetition.
    assert not re.search(r"\(\?[=!<]|[*+?]\+", pattern.pattern)


@pytest.mark.parametrize(
    ("split", "method", "share"),
    [
        ("{method: last_share, share: 0.3}", "last_share", 0.3),
        ("{method: leave_last_out}", "leave_last_out", 0.2),
        ("{method: time, share: 0.1}", "time", 0.1),
        ("{method: time, cut: 2026-01-01}", "last_share", 0.2),
        ("{method: given, column: part}", "last_share", 0.2),
    ],
)
def test_trials_choose_on_a_split_of_their_own(split: str, method: str, share: float) -> None:
    chosen = validation_split(project_with(f"split={split}"))
    assert (chosen.method, chosen.share, chosen.cut, chosen.column) == (method, share, None, None)


def test_a_project_without_a_sweep_says_how_to_get_one() -> None:
    with pytest.raises(UsageError, match="has no sweep") as caught:
        experiment_of(project_with("sweep=null"))
    assert "docs/sweeps.md" in str(caught.value)


def change(path: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Returns a function that sets the field at a path such as spec.parameters.0.name; None removes it."""

    def apply(content: Any) -> None:
        *parents, last = path.split("/")
        for part in parents:
            content = content[int(part)] if part.isdigit() else content[part]
        if value is None:
            del content[int(last) if last.isdigit() else last]
        elif last == "+":
            content.append(value)
        else:
            content[int(last) if last.isdigit() else last] = value

    return apply


JOB = "spec/trialTemplate/trialSpec/spec"
CONTAINER = f"{JOB}/template/spec/containers/0"
BROKEN = {
    "name too long": (change("metadata/name", "a" * 41), "metadata.name"),
    "name in capitals": (change("metadata/name", "Shop"), "metadata.name"),
    "kind": (change("kind", "Experment"), "kind"),
    "failures not counted": (change("spec/maxFailedTrialCount"), "spec.maxFailedTrialCount"),
    "too many failures": (change("spec/maxFailedTrialCount", 7), "spec.maxFailedTrialCount"),
    "too many in parallel": (change("spec/parallelTrialCount", 7), "spec.parallelTrialCount"),
    "none in parallel": (change("spec/parallelTrialCount", 0), "spec.parallelTrialCount"),
    "endless": (change("spec/maxTrialCount"), "spec.maxTrialCount"),
    "resume": (change("spec/resumePolicy", "Always"), "spec.resumePolicy"),
    "direction": (change("spec/objective/type", "maximise"), "spec.objective.type"),
    "no objective": (change("spec/objective/objectiveMetricName"), "spec.objective.objectiveMetricName"),
    "objective twice": (change("spec/objective/additionalMetricNames/+", "ndcg@5"),
                        "spec.objective.additionalMetricNames"),
    "strategy": (change("spec/objective/metricStrategies/0/value", "last"), "spec.objective.metricStrategies"),
    "algorithm": (change("spec/algorithm/algorithmName", "tpee"), "spec.algorithm.algorithmName"),
    "setting": (change("spec/algorithm/algorithmSettings/0/name", "seed"), "spec.algorithm.algorithmSettings"),
    "early stopping": (change("spec/earlyStopping", {"algorithmName": "mean"}), "spec.earlyStopping.algorithmName"),
    "no parameters": (change("spec/parameters", []), "spec.parameters"),
    "parameter twice": (change("spec/parameters/1/name", "factors"), "spec.parameters"),
    "type": (change("spec/parameters/0/parameterType", "integer"), "spec.parameters[0].parameterType"),
    "bound that is no text": (change("spec/parameters/0/feasibleSpace/min", 4), "spec.parameters[0].feasibleSpace"),
    "no maximum": (change("spec/parameters/0/feasibleSpace/max"), "spec.parameters[0].feasibleSpace"),
    "upside down": (change("spec/parameters/0/feasibleSpace/min", "99"), "spec.parameters[0].feasibleSpace"),
    "log of nothing": (change("spec/parameters/0/feasibleSpace/min", "0"), "spec.parameters[0].feasibleSpace.min"),
    "distribution": (change("spec/parameters/0/feasibleSpace/distribution", "log"),
                     "spec.parameters[0].feasibleSpace.distribution"),
    "collector": (change("spec/metricsCollectorSpec/collector/kind", "File"),
                  "spec.metricsCollectorSpec.collector.kind"),
    "default expression": (change("spec/metricsCollectorSpec/source"), "spec.metricsCollectorSpec.source.filter"),
    "one group": (change("spec/metricsCollectorSpec/source/filter/metricsFormat/0", "(.*)=.*"),
                  "spec.metricsCollectorSpec.source.filter"),
    "no expression": (change("spec/metricsCollectorSpec/source/filter/metricsFormat/0", "(.*"),
                      "spec.metricsCollectorSpec.source.filter"),
    "no primary container": (change("spec/trialTemplate/primaryContainerName"),
                             "spec.trialTemplate.primaryContainerName"),
    "another container": (change("spec/trialTemplate/primaryContainerName", "main"),
                          "spec.trialTemplate.primaryContainerName"),
    "no condition": (change("spec/trialTemplate/successCondition"), "spec.trialTemplate.successCondition"),
    "unused": (change("spec/trialTemplate/trialParameters/+", {"name": "extra", "reference": "factors"}),
               "spec.trialTemplate.trialParameters"),
    "no such parameter": (change("spec/trialTemplate/trialParameters/1/reference", "factor"),
                          "spec.trialTemplate.trialParameters"),
    "not handed on": (change("spec/trialTemplate/trialParameters/1"), "spec.trialTemplate.trialParameters"),
    "named": (change("spec/trialTemplate/trialSpec/metadata", {"name": "x"}), "spec.trialTemplate.trialSpec.metadata"),
    "in a namespace": (change("spec/trialTemplate/trialSpec/metadata", {"namespace": "x"}),
                       "spec.trialTemplate.trialSpec.metadata"),
    "unknown kind": (change("spec/trialTemplate/trialSpec/kind", "CronJob"), "spec.trialTemplate.trialSpec.kind"),
    "retried": (change(f"{JOB}/backoffLimit", 2), "spec.trialTemplate.trialSpec.spec.backoffLimit"),
    "misspelt in the job": (change(f"{JOB}/backofLimit", 0), "spec.trialTemplate.trialSpec.spec.backofLimit"),
    "mesh": (change(f"{JOB}/template/metadata/annotations"),
             "spec.trialTemplate.trialSpec.spec.template.metadata.annotations"),
    "no command": (change(f"{CONTAINER}/command", []), "spec.trialTemplate.trialSpec.spec.template.spec.containers"),
    "quotes": (change(f"{CONTAINER}/command/+", "{'a': 1}"), "spec.trialTemplate.trialSpec.spec"),
    "misspelt": (change("spec/parallelTrialCounts", 2), "spec.parallelTrialCounts"),
    "misspelt deep down": (change("spec/objective/goall", 0.5), "spec.objective.goall"),
    "misspelt in a row": (change("spec/parameters/0/feasibleSpace/maxi", "9"), "spec.parameters[0].feasibleSpace.maxi"),
    "misspelt in the pod": (change(f"{CONTAINER}/imagePullPolcy", "Always"),
                            "spec.trialTemplate.trialSpec.spec.template.spec.containers[0].imagePullPolcy"),
    "type of a field": (change("spec/trialTemplate/retain", "no"), "TrialTemplate.retain"),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_a_broken_experiment_is_refused_and_the_place_named(fault: str) -> None:
    break_it, path = BROKEN[fault]
    content = experiment_of(project_with())
    assert lint(content) == []
    break_it(content)
    assert path in [finding.path for finding in lint(content)]
    with pytest.raises(UsageError, match=re.escape(path)):
        check_document(content)


def test_a_document_of_another_kind_is_refused_without_a_traceback() -> None:
    for content in ({}, {"kind": "Job"}, {"spec": {}}, {"spec": {"trialTemplate": {"trialSpec": {}}}}):
        assert lint(content)


def test_document_and_models_agree() -> None:
    project = project_with()
    experiment = build_experiment(project, place_on_cluster(project))
    assert type(experiment).from_dict(document(experiment)) == experiment


def places(content: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    rows = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in rows:
        yield (*here, key)
        yield from places(value, (*here, key))


@pytest.mark.parametrize("kind", ["Job", "TrainJob"])
def test_no_document_is_so_broken_that_lint_breaks(kind: str) -> None:
    whole = experiment_of(project_with(f"sweep.trial.kind={kind}", "sweep.early_stopping=medianstop"))
    for place in list(places(whole)):
        for value in (None, "", 7, -1, "Some Text", [], {}, ["x"], [None]):
            content = json.loads(json.dumps(whole))
            part = content
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = value
            findings = lint(content)
            # What must be there, or be of some kind, is missed; what is free may be anything.
            if place[-1] in ("parameters", "objective", "algorithm", "trialTemplate", "trialSpec", "maxTrialCount"):
                assert findings or (place[-1], value) == ("maxTrialCount", 7)


@pytest.mark.parametrize("value", ["", None, []])
def test_a_job_with_an_empty_value_is_refused_as_katib_does(value: Any) -> None:
    content = experiment_of(project_with())
    container = content["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["env"][0]["value"] = value
    assert any("env[0].value" in finding.path for finding in lint(content))
