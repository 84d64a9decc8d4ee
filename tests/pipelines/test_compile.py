"""The pipeline as Kubeflow Pipelines gets it: the same bytes on every machine, nothing of any machine in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.contracts.errors import UsageError
from slipway.contracts.project import load_project
from slipway.pipelines.compile import compile_pipeline, compile_training
from slipway.pipelines.settings import INPUTS, OUTPUTS, STEPS

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: tiny
data: {interactions: {source: events.csv}, items: {source: "s3://events/items/"}}
steps: {train: {retries: 4, retry_backoff: 30s, timeout: 2h}}
retraining: {window: 30d}
batch_prediction: {input: "s3://events/users/"}
kubernetes:
  notification: {webhook: {secret: chat, key: url}}
  secrets: [{secret: mlflow, env: {TOKEN: token, ADDRESS: address}}]
schedules: [{name: nightly, cron: "0 3 * * *", time_zone: Europe/Berlin}]
"""
IMAGE = f"registry.example/steps@sha256:{'0' * 64}"


def write(folder: Path, text: str = PROJECT) -> Path:
    folder.mkdir()
    (folder / "slipway.yaml").write_text(text)
    (folder / "events.csv").write_text("user,item,timestamp\n1,2,3\n")
    return folder


def task_of(specification: dict[str, Any], step: str) -> dict[str, Any]:
    parts = [specification["root"], *specification["components"].values()]
    return next(part["dag"]["tasks"][step] for part in parts if step in part.get("dag", {}).get("tasks", {}))


def test_the_compiled_pipeline_is_the_chain_of_steps(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    compile_training(load_project(folder), folder / "pipeline.yaml", image=IMAGE)
    written = (folder / "pipeline.yaml").read_text()
    assert str(tmp_path) not in written
    content = next(yaml.safe_load_all(written))

    assert "enableCache" not in task_of(content, "observe")["cachingOptions"], "it looks at the world outside"
    assert task_of(content, "extract")["cachingOptions"]["enableCache"]
    for step in STEPS:
        artifacts = task_of(content, step).get("inputs", {}).get("artifacts", {})
        expected = ("tables",) if step == "validate" else INPUTS[step]
        assert tuple(sorted(artifacts)) == tuple(sorted(expected))
        for name, source in artifacts.items():
            producer = source["taskOutputArtifact"]["producerTask"]
            assert {**OUTPUTS, "extract": "tables"}[producer] == name
        outputs = content["components"][f"comp-{step}"]["outputDefinitions"]["artifacts"]
        assert set(outputs) >= {OUTPUTS[step], "metrics", "report"}
        container = content["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        assert container["image"] == IMAGE
        assert "pip install" not in str(container["command"])
    retries = task_of(content, "train")["retryPolicy"]
    assert (retries["maxRetryCount"], retries["backoffDuration"]) == (4, "30s"), "as the file says for this step"
    retries = task_of(content, "validate")["retryPolicy"]
    assert (retries["maxRetryCount"], retries["backoffDuration"]) == (3, "120s"), "as the cluster's part says"
    # Argo counts this from the first attempt's start: three attempts of an hour and their grace, and the pauses.
    assert retries["backoffMaxDuration"] == f"{3 * (3600 + 900) + 120 + 240 + 480}s"
    assert "enableCache" not in task_of(content, "register")["cachingOptions"], "registering has an effect"
    assert task_of(content, "train")["cachingOptions"]["enableCache"]


def test_the_cache_sees_changed_sources_and_another_champion(tmp_path: Path) -> None:
    specification = compile_pipeline(load_project(write(tmp_path / "one"))).specification
    for step, parameter, output in (
        ("extract", "data_fingerprint", "data_fingerprint"),
        ("validate", "data_fingerprint", "data_fingerprint"),
        ("evaluate", "champion_sha256", "bundle_sha256"),
    ):
        source = task_of(specification, step)["inputs"]["parameters"][parameter]["taskOutputParameter"]
        assert source == {"outputParameterKey": output, "producerTask": "observe"}


def test_everybody_is_told_whatever_becomes_of_the_run(tmp_path: Path) -> None:
    specification = compile_pipeline(load_project(write(tmp_path / "one"))).specification
    task = task_of(specification, "notify")
    assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert "enableCache" not in task["cachingOptions"]
    assert "taskFinalStatus" in task["inputs"]["parameters"]["status"]


# The hash seed, the locale, the zone and the home of a machine are none of the pipeline's business.
MACHINES = (
    {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1", "HOME": "/nonexistent", "PYTHONUTF8": "0"},
    {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "77", "HOME": "/tmp", "LANG": "tr_TR.UTF-8"},
)
COMMAND = """
import sys
from pathlib import Path
from slipway.cli.main import run_command_line
folder = Path(sys.argv[1])
for pipeline in ("training", "retraining", "batch-prediction"):
    arguments = ["compile", "-f", str(folder), "--pipeline", pipeline]
    arguments += ["--to", str(folder / f"{pipeline}.yaml"), "--manifests", str(folder / "deploy")]
    assert run_command_line(arguments) == 0
"""


def test_every_machine_writes_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for number, machine in enumerate(MACHINES):
        folder = write(tmp_path / f"machine-{number}")
        environment = {"PATH": os.environ["PATH"]} | machine
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(folder)], env=environment, cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        files = sorted(folder.rglob("*.yaml"))
        written.append({str(file.relative_to(folder)): file.read_bytes() for file in files})
    assert len(written[0]) == 1 + 3 + 3 + 3 + 1, "project, IR, pipelines, runs, one schedule"
    assert written[0] == written[1]
    for content in written[0].values():
        assert str(tmp_path).encode() not in content


def test_another_seed_is_another_version(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    versions = {compile_pipeline(load_project(folder, overrides)).version for overrides in ([], [], ["model.seed=43"])}
    assert len(versions) == 2
    assert all(version.startswith("tiny-") for version in versions)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.interactions.source=/home/me/events.csv", "is a path of this machine"),
        ("data.interactions.source=../events.csv", "is a path of this machine"),
        ("data.items.source=gs://events/items/", "pods cannot read gs://"),
        ("evaluation.candidates=s3://events/candidates.csv", "project's folder only"),
    ],
)
def test_what_no_pod_can_read_is_refused(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compile_pipeline(load_project(write(tmp_path / "one"), [override]))


def test_a_project_without_predictions_has_no_such_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say what to predict for"):
        compile_pipeline(load_project(write(tmp_path / "one"), ["batch_prediction=null"]), "batch_prediction")


def test_names_that_kubectl_reads_as_booleans_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(
        "slipway.pipelines.compile.BUILDERS", {"training": "boolean_named_pipeline:build"}, raising=True
    )
    with pytest.raises(UsageError, match="a parameter is named 'y'"):
        compile_pipeline(load_project(write(tmp_path / "one")))
