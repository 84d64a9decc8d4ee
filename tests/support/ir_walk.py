"""Walks the intermediate representation of a compiled pipeline, task by task, as a back end would.

    run = walk(compiled.specification, {"window_end": ""}, root="s3://bucket/root", run_id="r1", execute=pods.execute)
    run.state, run.tasks["exit-handler-1/train"].attempts

What is carried out: parameters with their defaults, artifacts, outputs of groups, conditions, exit handlers, retries
with the pauses that the pipeline asks for. Loops and importers are refused. Tasks run one after the other, and nothing
is taken from a cache. `execute` runs one container.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ir_conditions import holds

Object = dict[str, Any]

SUCCEEDED, FAILED, SKIPPED = "SUCCEEDED", "FAILED", "SKIPPED"
OUTPUT_FILE = "/tmp/kfp_outputs/output_metadata.json"
_NUMBERS = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}


@dataclass(frozen=True)
class ContainerCall:
    """One attempt at one container: where it stands in the pipeline, its executor, and what it is told."""

    path: str
    attempt: int
    executor_label: str
    executor: Mapping[str, Any]
    executor_input: Mapping[str, Any]


@dataclass(frozen=True)
class ContainerEnd:
    """How it ended. `outputs` is the content of the executor's output file; `log` is what it printed."""

    exit_code: int
    outputs: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""


@dataclass
class TaskRun:
    """What became of a task. A group has no attempts of its own."""

    state: str
    parameters: Object = field(default_factory=dict)
    artifacts: dict[str, Object] = field(default_factory=dict)
    attempts: list[ContainerEnd] = field(default_factory=list)
    error: str = ""


@dataclass
class PipelineRun:
    """What became of a run: its state, and its tasks by path, in the order in which they were come to."""

    state: str
    tasks: dict[str, TaskRun]


Execute = Callable[[ContainerCall], ContainerEnd]


def walk(
    specification: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    root: str,
    run_id: str,
    execute: Execute,
    pause: Callable[[float], None] = time.sleep,
) -> PipelineRun:
    """Carries a pipeline out.

    Args:
        specification: The first document of the compiled pipeline.
        parameters: Of the run.
        root: Where artifacts go, `s3://bucket/prefix`.
        run_id: Of the run.
        execute: Runs one container to its end.
        pause: Waits for a number of seconds before a further attempt.

    Raises:
        NotImplementedError: The pipeline needs what is not carried out here.
    """
    walker = _Walker(specification, root, run_id, execute, pause)
    top = walker.group("", specification["root"], dict(parameters), {})
    return PipelineRun(top.state, walker.tasks)


@dataclass
class _Walker:
    specification: Mapping[str, Any]
    root: str
    run_id: str
    execute: Execute
    pause: Callable[[float], None]
    tasks: dict[str, TaskRun] = field(default_factory=dict)

    def group(self, path: str, component: Mapping[str, Any], given: Object, artifacts: Mapping[str, Object]) -> TaskRun:
        """Runs the tasks of a group and returns its state and outputs."""
        parameters = _with_defaults(component, given)
        done: dict[str, TaskRun] = {}
        waiting = dict(component["dag"]["tasks"])
        while waiting:
            ready = next(
                (name for name, task in waiting.items() if set(task.get("dependentTasks", ())) <= set(done)), None
            )
            assert ready is not None, f"{sorted(waiting)} wait for each other"
            place = f"{path}/{ready}" if path else ready
            done[ready] = self.tasks[place] = TaskRun(SKIPPED)
            done[ready] = self.tasks[place] = self._task(place, waiting.pop(ready), parameters, artifacts, done)
        failed = [name for name, task in done.items() if task.state == FAILED]
        outcome = TaskRun(FAILED if failed else SUCCEEDED, error="; ".join(done[name].error for name in failed))
        if not failed:
            _collect_outputs(component["dag"].get("outputs", {}), done, outcome)
        return outcome

    def _task(
        self,
        path: str,
        task: Mapping[str, Any],
        parameters: Object,
        artifacts: Mapping[str, Object],
        done: Mapping[str, TaskRun],
    ) -> TaskRun:
        for kind in ("parameterIterator", "artifactIterator", "iteratorPolicy"):
            if kind in task:
                raise NotImplementedError(f"{path}: {kind}")
        trigger = task.get("triggerPolicy", {})
        upstream = [done[name].state for name in task.get("dependentTasks", ())]
        whatever = trigger.get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
        if not whatever and any(state != SUCCEEDED for state in upstream):
            return TaskRun(SKIPPED)
        own = {
            name: self._parameter(path, source, parameters, done)
            for name, source in task.get("inputs", {}).get("parameters", {}).items()
        }
        if "condition" in trigger and not holds(trigger["condition"], own):
            return TaskRun(SKIPPED)
        taken = {
            name: _artifact(path, source, artifacts, done)
            for name, source in task.get("inputs", {}).get("artifacts", {}).items()
        }
        component = self.specification["components"][task["componentRef"]["name"]]
        if "dag" in component:
            return self.group(path, component, own, taken)
        return self._container(path, component, task, own, taken)

    def _container(
        self,
        path: str,
        component: Mapping[str, Any],
        task: Mapping[str, Any],
        given: Object,
        artifacts: Mapping[str, Object],
    ) -> TaskRun:
        label = component["executorLabel"]
        executor = self.specification["deploymentSpec"]["executors"][label]
        if "container" not in executor:
            raise NotImplementedError(f"{path}: {sorted(executor)}")
        policy = task.get("retryPolicy", {})
        run = TaskRun(FAILED, parameters={}, artifacts={})
        began = time.monotonic()
        for attempt in range(int(policy.get("maxRetryCount", 0)) + 1):
            if attempt:
                if time.monotonic() - began > _seconds(policy, "backoffMaxDuration"):
                    # As Argo counts: from the first attempt's start.
                    break
                self.pause(_seconds(policy, "backoffDuration") * float(policy.get("backoffFactor", 2)) ** (attempt - 1))
            told = self._executor_input(path, attempt, component, _with_defaults(component, given), artifacts)
            end = self.execute(ContainerCall(path, attempt, label, executor["container"], told))
            run.attempts.append(end)
            if end.exit_code == 0:
                run.state = SUCCEEDED
                run.parameters = dict(end.outputs.get("parameterValues", {}))
                run.artifacts = _written_artifacts(told, end.outputs)
                return run
        run.error = f"{path} ended with exit code {run.attempts[-1].exit_code}"
        return run

    def _executor_input(
        self,
        path: str,
        attempt: int,
        component: Mapping[str, Any],
        parameters: Object,
        artifacts: Mapping[str, Object],
    ) -> Object:
        outputs = component.get("outputDefinitions", {})
        # Each attempt writes to a place of its own: what a failed one left is never read.
        folder = f"{self.root}/{self.run_id}/{path}/{attempt}"
        return {
            "inputs": {
                "parameterValues": parameters,
                # The back end hands artifacts on under a number and without the name of their type.
                "artifacts": {
                    name: {"artifacts": [artifact | {"name": "1", "type": {"instanceSchema": ""}}]}
                    for name, artifact in artifacts.items()
                },
            },
            "outputs": {
                "parameters": {
                    name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in outputs.get("parameters", {})
                },
                "artifacts": {
                    name: {
                        "artifacts": [
                            {"name": name, "type": spec["artifactType"], "uri": f"{folder}/{name}", "metadata": {}}
                        ]
                    }
                    for name, spec in outputs.get("artifacts", {}).items()
                },
                "outputFile": OUTPUT_FILE,
            },
        }

    def _parameter(self, path: str, source: Mapping[str, Any], parameters: Object, done: Mapping[str, TaskRun]) -> Any:
        if "runtimeValue" in source:
            value = source["runtimeValue"]["constant"]
            if isinstance(value, str) and "{{$" in value:
                raise NotImplementedError(f"{path}: {value}")
            return value
        if "componentInputParameter" in source:
            return parameters[source["componentInputParameter"]]
        if "taskOutputParameter" in source:
            wanted = source["taskOutputParameter"]
            return done[wanted["producerTask"]].parameters[wanted["outputParameterKey"]]
        if "taskFinalStatus" in source:
            name = source["taskFinalStatus"]["producerTask"]
            # The back end calls success so, and says nothing of the error.
            return {
                "state": "COMPLETE" if done[name].state == SUCCEEDED else done[name].state,
                "error": {},
                "pipelineJobResourceName": f"runs/{self.run_id}",
                "pipelineTaskName": name,
            }
        raise NotImplementedError(f"{path}: {sorted(source)}")


def _with_defaults(component: Mapping[str, Any], given: Object) -> Object:
    """Returns the parameters of a component, where nothing is given its defaults; whole numbers stay whole."""
    made: Object = {}
    for name, spec in component.get("inputDefinitions", {}).get("parameters", {}).items():
        if name in given:
            made[name] = given[name]
        elif "defaultValue" in spec:
            made[name] = spec["defaultValue"]
        else:
            assert spec.get("isOptional"), f"nothing is given for {name}"
            continue
        convert = _NUMBERS.get(str(spec.get("parameterType")))
        made[name] = convert(made[name]) if convert is not None and made[name] is not None else made[name]
    return made


def _artifact(
    path: str, source: Mapping[str, Any], artifacts: Mapping[str, Object], done: Mapping[str, TaskRun]
) -> Object:
    if "componentInputArtifact" in source:
        return dict(artifacts[source["componentInputArtifact"]])
    if "taskOutputArtifact" in source:
        wanted = source["taskOutputArtifact"]
        return dict(done[wanted["producerTask"]].artifacts[wanted["outputArtifactKey"]])
    raise NotImplementedError(f"{path}: {sorted(source)}")


def _collect_outputs(outputs: Mapping[str, Any], done: Mapping[str, TaskRun], outcome: TaskRun) -> None:
    """Hands on what a group says that it gives; of several branches the one that ran."""
    for name, source in outputs.get("parameters", {}).items():
        single = source.get("valueFromParameter")
        for selector in [single] if single else source["valueFromOneof"]["parameterSelectors"]:
            task = done[selector["producerSubtask"]]
            if task.state == SUCCEEDED and selector["outputParameterKey"] in task.parameters:
                outcome.parameters[name] = task.parameters[selector["outputParameterKey"]]
                break
    for name, source in outputs.get("artifacts", {}).items():
        for selector in source["artifactSelectors"]:
            task = done[selector["producerSubtask"]]
            if task.state == SUCCEEDED and selector["outputArtifactKey"] in task.artifacts:
                outcome.artifacts[name] = task.artifacts[selector["outputArtifactKey"]]
                break


def _written_artifacts(told: Object, outputs: Mapping[str, Any]) -> dict[str, Object]:
    """Returns the artifacts as the executor's output file describes them, with its metadata."""
    written: dict[str, Object] = {}
    for name, entry in told["outputs"]["artifacts"].items():
        artifact: Object = copy.deepcopy(entry["artifacts"][0])
        said = outputs.get("artifacts", {}).get(name, {}).get("artifacts")
        if said:
            artifact.update({key: said[0][key] for key in ("metadata", "uri") if key in said[0]})
        written[name] = artifact
    return written


def _seconds(policy: Mapping[str, Any], name: str) -> float:
    return float(str(policy.get(name, "0s")).removesuffix("s"))
