"""The driver of the cluster's tests carries a compiled pipeline out as its text says."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ir_conditions import holds
from ir_walk import ContainerCall, ContainerEnd, PipelineRun, walk
from kfp import compiler, dsl


@dsl.component(base_image="python:3.11", install_kfp_package=False)  # type: ignore[untyped-decorator]
def count(number: int, word: str = "one") -> str:
    """Says a word."""
    return word * number


@dsl.component(base_image="python:3.11", install_kfp_package=False)  # type: ignore[untyped-decorator]
def write(text: str, table: dsl.Output[dsl.Dataset]) -> None:
    """Writes a table."""


@dsl.component(base_image="python:3.11", install_kfp_package=False)  # type: ignore[untyped-decorator]
def read(table: dsl.Input[dsl.Dataset]) -> str:
    """Reads a table."""
    return ""


@dsl.component(base_image="python:3.11", install_kfp_package=False)  # type: ignore[untyped-decorator]
def tell(status: dsl.PipelineTaskFinalStatus) -> None:
    """Tells how it ended."""


@dsl.pipeline(name="walked")  # type: ignore[untyped-decorator]
def walked(number: int = 2) -> None:
    """Two branches, an artifact, a retry, and somebody who is told."""
    told = tell()
    with dsl.ExitHandler(told, name="all"):
        said = count(number=number)
        said.set_retry(2, backoff_duration="5s", backoff_factor=2.0, backoff_max_duration="600s")
        with dsl.If(said.output == "oneone", name="twice"):
            made = write(text=said.output)
            read(table=made.outputs["table"])
        with dsl.Else(name="otherwise"):
            write(text="nothing")


@pytest.fixture(scope="module")
def specification() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        compiler.Compiler().compile(walked, str(Path(folder) / "walked.yaml"))
        content: dict[str, Any] = yaml.safe_load((Path(folder) / "walked.yaml").read_text())
        return content


class Containers:
    """Ends each container as it is told, and keeps what it was called with."""

    def __init__(self, fail: Callable[[ContainerCall], bool] = lambda _: False) -> None:
        self.calls: list[ContainerCall] = []
        self.pauses: list[float] = []
        self._fail = fail

    def execute(self, call: ContainerCall) -> ContainerEnd:
        self.calls.append(call)
        if self._fail(call):
            return ContainerEnd(3)
        values = call.executor_input["inputs"]["parameterValues"]
        said = values.get("word", "") * int(values.get("number", 0))
        return ContainerEnd(0, {"parameterValues": {"Output": said}} if call.executor_label != "exec-write" else {})

    def run(self, specification: dict[str, Any], **parameters: Any) -> PipelineRun:
        return walk(
            specification, parameters, root="s3://b/r", run_id="1", execute=self.execute, pause=self.pauses.append
        )

    def inputs(self, label: str) -> dict[str, Any]:
        """Returns what the last call of an executor was given."""
        found: dict[str, Any] = next(
            call.executor_input["inputs"] for call in reversed(self.calls) if call.executor_label == label
        )
        return found


def states(run: PipelineRun) -> dict[str, str]:
    return {path.rpartition("/")[2]: task.state for path, task in run.tasks.items()}


def test_the_branch_whose_condition_holds_runs_and_the_other_does_not(specification: dict[str, Any]) -> None:
    containers = Containers()
    run = containers.run(specification)
    assert run.state == "SUCCEEDED"
    assert states(run)["read"] == "SUCCEEDED"
    assert containers.inputs("exec-write")["parameterValues"] == {"text": "oneone"}
    assert "exec-write-2" not in {call.executor_label for call in containers.calls}
    other = Containers()
    assert other.run(specification, number=3).state == "SUCCEEDED"
    assert other.inputs("exec-write-2")["parameterValues"] == {"text": "nothing"}
    assert "exec-read" not in {call.executor_label for call in other.calls}


def test_an_artifact_is_handed_on_by_its_address_alone(specification: dict[str, Any]) -> None:
    containers = Containers()
    containers.run(specification)
    (given,) = containers.inputs("exec-read")["artifacts"]["table"]["artifacts"]
    written = next(call for call in containers.calls if call.executor_label == "exec-write")
    (made,) = written.executor_input["outputs"]["artifacts"]["table"]["artifacts"]
    assert given["uri"] == made["uri"]
    assert made["uri"].startswith("s3://b/r/1/")
    # As Kubeflow Pipelines does it: a component that relies on the type's name works on one machine only.
    assert given["type"] == {"instanceSchema": ""}


def test_a_failed_container_is_tried_again_after_the_pauses_of_the_pipeline(specification: dict[str, Any]) -> None:
    containers = Containers(lambda call: call.executor_label == "exec-count" and call.attempt < 2)
    run = containers.run(specification)
    assert run.state == "SUCCEEDED"
    assert containers.pauses == [5.0, 10.0]
    assert [end.exit_code for end in run.tasks["exit-handler-1/count"].attempts] == [3, 3, 0]


def test_nothing_runs_after_a_failure_but_who_is_told(specification: dict[str, Any]) -> None:
    containers = Containers(lambda call: call.executor_label == "exec-count")
    run = containers.run(specification)
    assert run.state == "FAILED"
    assert {call.executor_label for call in containers.calls} == {"exec-count", "exec-tell"}
    status = containers.inputs("exec-tell")["parameterValues"]["status"]
    assert (status["state"], status["pipelineTaskName"]) == ("FAILED", "exit-handler-1")
    assert "exit code 3" in run.tasks["exit-handler-1"].error


def test_what_is_not_carried_out_is_refused(specification: dict[str, Any]) -> None:
    loop = {
        **specification,
        "root": {"dag": {"tasks": {"a": {"parameterIterator": {}, "componentRef": {"name": "x"}}}}},
    }
    with pytest.raises(NotImplementedError, match="parameterIterator"):
        Containers().run(loop)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("inputs.parameter_values['a'] == 'x y'", True),
        ("inputs.parameter_values['a'] != 'x y'", False),
        ("!(inputs.parameter_values['a'] == 'it\\'s')", True),
        ("int(inputs.parameter_values['n']) >= 3 && inputs.parameter_values['b'] == true", True),
        ("inputs.parameter_values['n'] < 3 || !(inputs.parameter_values['n'] > 2.5)", False),
    ],
)
def test_conditions_are_read_as_they_are_written(condition: str, expected: bool) -> None:
    assert holds(condition, {"a": "x y", "n": 3, "b": True}) is expected


@pytest.mark.parametrize(
    "condition", ["'a' == 'a' ? true : false", "inputs.parameter_values['a']", "size('a') == 1", "(true"]
)
def test_conditions_that_are_not_understood_are_refused(condition: str) -> None:
    with pytest.raises(ValueError, match="not"):
        holds(condition, {"a": "x"})
