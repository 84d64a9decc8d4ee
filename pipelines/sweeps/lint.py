"""What is wrong with an Experiment before Katib sees it.

Katib's custom resource has no schema and its Python models drop what they do not know, so a misspelt field is silently
lost; Katib's webhook and its algorithms refuse other mistakes, some of them only after the sweep has started.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.contracts.errors import UsageError
from slipway.contracts.project.sweep import ALGORITHMS, hyperband_brackets
from slipway.pipelines.sweeps.shapes import empty_values, misshapen

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PLACEHOLDER = re.compile(r"\$\{trialParameters\.(.+?)\}")
_META = re.compile(r"\$\{trialSpec\.(Name|Namespace|Kind|APIVersion|Annotations\[.+\]|Labels\[.+\])\}")
# What a shell takes as it stands: Katib joins a container's command into one text for `sh -c`.
_SHELL_SAFE = re.compile(r"[\w@%+=:,./-]*")
_JOB_FIELDS = frozenset(
    {
        "activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex", "completionMode", "completions", "managedBy",
        "manualSelector", "maxFailedIndexes", "parallelism", "podFailurePolicy", "podReplacementPolicy", "selector",
        "successPolicy", "suspend", "template", "ttlSecondsAfterFinished",
    }
)  # fmt: skip
_SETTINGS: Mapping[str, frozenset[str]] = {
    "random": frozenset({"random_state"}),
    "tpe": frozenset({"random_state", "gamma", "prior_weight", "n_EI_candidates"}),
    "grid": frozenset({"random_state"}),
    "cmaes": frozenset({"random_state", "sigma", "restart_strategy"}),
    "sobol": frozenset(),
    "hyperband": frozenset({"resource_name", "r_l", "eta"}),
    "bayesianoptimization": frozenset(
        {"random_state", "base_estimator", "n_initial_points", "acq_func", "acq_optimizer"}
    ),
}


@dataclass(frozen=True)
class Finding:
    """One mistake: where in the document, and what."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def check_document(document: Mapping[str, Any]) -> None:
    """Refuses an Experiment with mistakes.

    Raises:
        UsageError: There are some; all are named.
    """
    findings = lint(document)
    if findings:
        raise UsageError(
            "\n".join(f"  {finding}" for finding in findings) + "\n",
            where=f"the Experiment has {len(findings)} problem{'s' if len(findings) != 1 else ''}:\n",
            remedy="Change the part `sweep:` of the project file.",
        )


def lint(document: Mapping[str, Any]) -> list[Finding]:
    """Returns every mistake of an Experiment, given as plain data."""
    shapeless = [Finding(path, what) for path, what in misshapen(document)]
    if shapeless:
        return shapeless
    spec = document.get("spec")
    if not spec:
        return [Finding("spec", "it must be there")]
    findings = [
        *_head(document),
        *_counts(spec),
        *_objective(spec),
        *_algorithm(spec),
        *_parameters(spec),
        *_collector(spec),
        *_template(spec),
    ]
    # A document that breaks the models' types was found wanting above, or is by them.
    return findings or list(_types_and_lost_fields(document))


def _head(document: Mapping[str, Any]) -> Iterator[Finding]:
    if (document.get("apiVersion"), document.get("kind")) != ("kubeflow.org/v1beta1", "Experiment"):
        yield Finding("kind", "it must be Experiment of kubeflow.org/v1beta1")
    name = str((document.get("metadata") or {}).get("name") or "")
    if not _NAME.fullmatch(name) or len(name) > 40:
        yield Finding("metadata.name", f"{name!r} must be lower-case letters, digits and -, 40 characters at most")


def _counts(spec: Mapping[str, Any]) -> Iterator[Finding]:
    most, parallel, failed = (spec.get(f"{name}TrialCount") for name in ("max", "parallel", "maxFailed"))
    if failed is None:
        yield Finding("spec.maxFailedTrialCount", "it must be set: without it a sweep of failures ends as succeeded")
    if most is None:
        yield Finding("spec.maxTrialCount", "it must be set: without it the sweep never ends")
    for name, value, least in (("max", most, 1), ("parallel", parallel, 1), ("maxFailed", failed, 0)):
        if value is None:
            continue
        if not isinstance(value, int) or value < least:
            yield Finding(f"spec.{name}TrialCount", f"{value!r} must be a whole number of at least {least}")
        elif isinstance(most, int) and value > most:
            yield Finding(f"spec.{name}TrialCount", f"{value} is above maxTrialCount, {most}")
    if spec.get("resumePolicy") not in (None, "", "Never", "LongRunning", "FromVolume"):
        yield Finding("spec.resumePolicy", f"{spec['resumePolicy']!r} is none of Never, LongRunning, FromVolume")


def _objective(spec: Mapping[str, Any]) -> Iterator[Finding]:
    objective = spec.get("objective") or {}
    name = objective.get("objectiveMetricName")
    if objective.get("type") not in ("maximize", "minimize"):
        yield Finding("spec.objective.type", "it must be maximize or minimize")
    if not name:
        yield Finding("spec.objective.objectiveMetricName", "it must be there")
    if name in (objective.get("additionalMetricNames") or ()):
        yield Finding("spec.objective.additionalMetricNames", f"{name} is the objective already")
    for strategy in objective.get("metricStrategies") or ():
        if strategy.get("value") not in ("min", "max", "latest"):
            yield Finding("spec.objective.metricStrategies", f"{strategy.get('value')!r} is none of min, max, latest")


def _algorithm(spec: Mapping[str, Any]) -> Iterator[Finding]:
    algorithm, early = spec.get("algorithm") or {}, spec.get("earlyStopping")
    name = algorithm.get("algorithmName")
    settings = _settings(algorithm)
    if name not in ALGORITHMS:
        yield Finding("spec.algorithm.algorithmName", f"{name!r} is none of {', '.join(ALGORITHMS)}")
        return
    for key in sorted(set(settings) - _SETTINGS[name]):
        yield Finding("spec.algorithm.algorithmSettings", f"{name} has no setting {key!r}")
    if name == "hyperband":
        yield from _hyperband(spec, settings)
    if (
        name == "cmaes"
        and sum(row.get("parameterType") in ("int", "double") for row in spec.get("parameters") or ()) < 2
    ):
        yield Finding("spec.parameters", "cmaes needs two parameters of type int or double")
    if early is not None:
        if early.get("algorithmName") != "medianstop":
            yield Finding("spec.earlyStopping.algorithmName", "it must be medianstop")
        for key, value in _settings(early).items():
            if key not in ("min_trials_required", "start_step") or not value.isdigit() or int(value) < 1:
                yield Finding("spec.earlyStopping.algorithmSettings", f"medianstop has no {key} = {value}")


def _settings(part: Mapping[str, Any]) -> dict[str, str]:
    return {str(row.get("name")): str(row.get("value")) for row in part.get("algorithmSettings") or ()}


def _hyperband(spec: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[Finding]:
    path = "spec.algorithm.algorithmSettings"
    if "r_l" not in settings or "resource_name" not in settings:
        yield Finding(path, "hyperband needs resource_name and r_l")
        return
    if settings["resource_name"] not in {row.get("name") for row in spec.get("parameters") or ()}:
        yield Finding(path, f"resource_name {settings['resource_name']!r} is no parameter")
    try:
        most, eta = float(settings["r_l"]), float(settings.get("eta", 3))
    except ValueError:
        yield Finding(path, "r_l and eta must be numbers")
        return
    if most < 1 or eta < 2:
        yield Finding(path, "r_l must be at least 1 and eta at least 2")
        return
    widest = int(eta ** hyperband_brackets(most, eta))
    if (spec.get("parallelTrialCount") or 3) < widest:
        yield Finding("spec.parallelTrialCount", f"hyperband with r_l {most:g} and eta {eta:g} needs at least {widest}")


def _parameters(spec: Mapping[str, Any]) -> Iterator[Finding]:
    rows = spec.get("parameters") or ()
    if not rows:
        yield Finding("spec.parameters", "there must be some")
    names = [row.get("name") for row in rows]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield Finding("spec.parameters", f"{name} stands twice")
    logarithmic = (spec.get("algorithm") or {}).get("algorithmName") in ("random", "tpe", "bayesianoptimization")
    for index, row in enumerate(rows):
        yield from _parameter(row, f"spec.parameters[{index}]", knows_log=logarithmic)


def _parameter(row: Mapping[str, Any], path: str, *, knows_log: bool) -> Iterator[Finding]:
    kind, space = row.get("parameterType"), row.get("feasibleSpace") or {}
    if not row.get("name"):
        yield Finding(f"{path}.name", "it must be there")
    if not all(isinstance(value, str) for name, value in space.items() if name != "list"):
        yield Finding(f"{path}.feasibleSpace", "every bound must be text: quote the numbers")
        return
    if kind in ("categorical", "discrete"):
        if not space.get("list"):
            yield Finding(f"{path}.feasibleSpace.list", "it must hold the values")
        if any(space.get(name) for name in ("min", "max", "step")):
            yield Finding(f"{path}.feasibleSpace", f"{kind} has a list, and no min, max or step")
        return
    if kind not in ("int", "double"):
        yield Finding(f"{path}.parameterType", f"{kind!r} is none of double, int, categorical, discrete")
        return
    if space.get("list"):
        yield Finding(f"{path}.feasibleSpace.list", f"{kind} has min and max, and no list")
    try:
        low, high = float(space["min"]), float(space["max"])
    except (KeyError, ValueError):
        yield Finding(f"{path}.feasibleSpace", f"{kind} needs min and max, both numbers")
        return
    if low >= high:
        yield Finding(f"{path}.feasibleSpace", f"min {low:g} is not below max {high:g}")
    distribution = space.get("distribution")
    if distribution not in (None, "", "uniform", "logUniform"):
        yield Finding(f"{path}.feasibleSpace.distribution", f"{distribution!r} is neither uniform nor logUniform")
    if distribution == "logUniform":
        if low <= 0:
            yield Finding(f"{path}.feasibleSpace.min", f"a log scale has no {low:g}")
        if not knows_log:
            yield Finding(f"{path}.feasibleSpace.distribution", "the algorithm would take it for uniform")


def _collector(spec: Mapping[str, Any]) -> Iterator[Finding]:
    part = spec.get("metricsCollectorSpec") or {}
    path = "spec.metricsCollectorSpec"
    if (part.get("collector") or {}).get("kind") != "StdOut":
        yield Finding(f"{path}.collector.kind", "it must be StdOut: trials print their metrics")
    formats = ((part.get("source") or {}).get("filter") or {}).get("metricsFormat") or ()
    metric = (spec.get("objective") or {}).get("objectiveMetricName") or ""
    readable = not formats and re.fullmatch(r"[\w|-]+", metric) is not None
    for text in formats:
        try:
            pattern = re.compile(text)
        except re.error as error:
            yield Finding(f"{path}.source.filter", f"{text!r} is no regular expression ({error})")
            continue
        if pattern.groups < 2:
            yield Finding(f"{path}.source.filter", f"{text!r} needs two groups, the name and the value")
            continue
        readable = readable or any(match[1] == metric for match in pattern.finditer(f"{metric}=0.5"))
    if metric and not readable:
        yield Finding(f"{path}.source.filter", f"no expression reads {metric!r} from a line such as {metric}=0.5")


def _template(spec: Mapping[str, Any]) -> Iterator[Finding]:
    template, path = spec.get("trialTemplate") or {}, "spec.trialTemplate"
    for name in ("primaryContainerName", "successCondition", "failureCondition", "trialParameters"):
        if not template.get(name):
            yield Finding(f"{path}.{name}", "it must be there")
    manifest = template.get("trialSpec")
    if not isinstance(manifest, dict):
        yield Finding(f"{path}.trialSpec", "it must be there")
        return
    yield from _trial_parameters(spec, template, manifest)
    if not manifest.get("apiVersion") or not manifest.get("kind"):
        yield Finding(f"{path}.trialSpec", "apiVersion and kind must be there")
    metadata = manifest.get("metadata") or {}
    if metadata.get("name") or metadata.get("namespace"):
        yield Finding(f"{path}.trialSpec.metadata", "Katib gives name and namespace; leave them out")
    if manifest.get("kind") == "Job":
        yield from _job(template, manifest.get("spec") or {}, f"{path}.trialSpec.spec")
    elif manifest.get("kind") == "TrainJob":
        trainer = (manifest.get("spec") or {}).get("trainer") or {}
        yield from _command([*(trainer.get("command") or ()), *(trainer.get("args") or ())], f"{path}.trialSpec")
        if not ((manifest.get("spec") or {}).get("runtimeRef") or {}).get("name"):
            yield Finding(f"{path}.trialSpec.spec.runtimeRef", "it must name a training runtime")
    else:
        yield Finding(f"{path}.trialSpec.kind", f"{manifest.get('kind')!r} is neither Job nor TrainJob")


def _trial_parameters(
    spec: Mapping[str, Any], template: Mapping[str, Any], manifest: Mapping[str, Any]
) -> Iterator[Finding]:
    path, rows = "spec.trialTemplate.trialParameters", template.get("trialParameters") or ()
    searched = {row.get("name") for row in spec.get("parameters") or ()}
    used = set(_PLACEHOLDER.findall(json.dumps(manifest)))
    names = [str(row.get("name")) for row in rows]
    references = [str(row.get("reference")) for row in rows]
    for what, texts in (("name", names), ("reference", references)):
        for text in sorted({text for text in texts if texts.count(text) > 1}):
            yield Finding(path, f"the {what} {text} stands twice")
    for name, reference in zip(names, references, strict=True):
        if name not in used:
            yield Finding(path, f"{name} is not used: the trial has no ${{trialParameters.{name}}}")
        if reference not in searched and not _META.fullmatch(reference):
            yield Finding(path, f"{name} refers to {reference}, which is no parameter")
    for name in sorted(used - set(names)):
        yield Finding(path, f"the trial uses {name}, which is not among them")
    for name in sorted(str(name) for name in searched - set(references)):
        yield Finding(path, f"the parameter {name} is searched and never handed to a trial")


def _job(template: Mapping[str, Any], job: Mapping[str, Any], path: str) -> Iterator[Finding]:
    for name in sorted(set(job) - _JOB_FIELDS):
        yield Finding(f"{path}.{name}", "a Job has no such field")
    for place, what in empty_values(job, path):
        yield Finding(place, what)
    if job.get("backoffLimit") != 0:
        yield Finding(f"{path}.backoffLimit", "it must be 0: a retry hides a failed trial from Katib")
    pod = job.get("template") or {}
    if ((pod.get("metadata") or {}).get("annotations") or {}).get("sidecar.istio.io/inject") != "false":
        yield Finding(f"{path}.template.metadata.annotations", 'sidecar.istio.io/inject must be "false"')
    containers = (pod.get("spec") or {}).get("containers") or ()
    primary = [row for row in containers if row.get("name") == template.get("primaryContainerName")]
    if not primary:
        yield Finding("spec.trialTemplate.primaryContainerName", "no container of the Job has this name")
    for container in primary:
        if not container.get("command"):
            yield Finding(f"{path}.template.spec.containers", "the primary container needs a command")
        yield from _command([*(container.get("command") or ()), *(container.get("args") or ())], path)


def _command(words: Sequence[str], path: str) -> Iterator[Finding]:
    for word in words:
        if not _SHELL_SAFE.fullmatch(_PLACEHOLDER.sub("x", str(word))):
            yield Finding(path, f"{word!r} in the command would not survive the shell that Katib puts it through")


def _types_and_lost_fields(document: Mapping[str, Any]) -> Iterator[Finding]:
    from kubeflow_katib_api.models.io_k8s_api_core_v1_pod_template_spec import IoK8sApiCoreV1PodTemplateSpec
    from kubeflow_katib_api.models.v1beta1_experiment import V1beta1Experiment
    from pydantic import ValidationError

    parts: list[tuple[str, Mapping[str, Any], Any]] = [("", document, V1beta1Experiment)]
    trial = document["spec"]["trialTemplate"]["trialSpec"]
    if trial["kind"] == "Job":
        place = "spec.trialTemplate.trialSpec.spec.template"
        parts.append((place, trial["spec"]["template"], IoK8sApiCoreV1PodTemplateSpec))
    for path, content, model in parts:
        try:
            known = model.from_dict(dict(content)).to_dict()
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                # The models say which of them found the fault, not where in the document that one stands.
                yield Finding(
                    ".".join((error.title.removeprefix("V1beta1"), *map(str, problem["loc"]))), problem["msg"]
                )
            continue
        yield from _lost(content, known, path)


def _lost(content: Any, known: Any, path: str) -> Iterator[Finding]:
    if isinstance(content, dict):
        for key, value in content.items():
            here = f"{path}.{key}".removeprefix(".")
            if value is None:
                continue
            if not isinstance(known, dict) or key not in known:
                yield Finding(here, "there is no such field; Katib would drop it without a word")
            else:
                yield from _lost(value, known[key], here)
    elif isinstance(content, list) and isinstance(known, list):
        for index, (value, other) in enumerate(zip(content, known, strict=False)):
            yield from _lost(value, other, f"{path}[{index}]")
