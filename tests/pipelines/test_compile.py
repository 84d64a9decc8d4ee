"""The pipeline as Kubeflow Pipelines gets it: the same bytes each time, nothing of this machine in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from slipway.contracts.project import load_project
from slipway.pipelines.compile import compile_training
from slipway.pipelines.settings import INPUTS, OUTPUTS, STEPS

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: tiny
data: {interactions: {source: events.csv}}
steps: {train: {retries: 4, retry_backoff: 30s, timeout: 2h}}
"""


def test_the_compiled_pipeline_is_the_chain_of_steps_whatever_folder_it_comes_from(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "slipway.yaml").write_text(PROJECT)
        (folder / "events.csv").write_text("user,item,timestamp\n1,2,3\n")
        compile_training(load_project(folder), folder / "pipeline.yaml", image="registry.example/steps@sha256:0")
        written.append((folder / "pipeline.yaml").read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]

    content = yaml.safe_load(written[0])
    tasks = content["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    for step in STEPS:
        artifacts = tasks[step].get("inputs", {}).get("artifacts", {})
        assert tuple(sorted(artifacts)) == tuple(sorted(INPUTS[step]))
        for name, source in artifacts.items():
            assert OUTPUTS[source["taskOutputArtifact"]["producerTask"]] == name
        outputs = content["components"][f"comp-{step}"]["outputDefinitions"]["artifacts"]
        assert set(outputs) == {OUTPUTS[step], "metrics", "report"}
        container = content["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        assert container["image"] == "registry.example/steps@sha256:0"
        assert "pip install" not in str(container["command"])
    assert tasks["train"]["retryPolicy"]["maxRetryCount"] == 4
    assert tasks["train"]["retryPolicy"]["backoffDuration"] == "30s"
    assert "enableCache" not in tasks["register"]["cachingOptions"], "registering has an effect"
    assert tasks["train"]["cachingOptions"]["enableCache"]
    # YAML readers that follow version 1.1 take these for booleans.
    parameters = {name for task in tasks.values() for name in task["inputs"].get("parameters", {})}
    assert not parameters & {"n", "y", "yes", "no", "on", "off"}
