"""The objects for kubectl: what the SDK itself would write, whole by Kubernetes' own types, immutable, repeatable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml
from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from slipway.contracts.project import Project, parse_project
from slipway.pipelines.compile import CompiledPipeline, compile_pipeline
from slipway.pipelines.kubernetes.manifests import pipeline_manifests, run_manifest, schedule_manifests, to_yaml
from slipway.pipelines.kubernetes.settings import cluster_settings
from slipway.pipelines.training import build_training

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: a-project-with-quite-a-long-name-indeed
data: {interactions: {source: "s3://events/ratings/"}}
batch_prediction: {input: "s3://events/users/"}
kubernetes:
  namespace: ml
  api: https://pipelines.example:8443
  pipeline_root: s3://artifacts/slipway/
  service_account: runner
  images: {pull_secrets: [registry], pull_policy: IfNotPresent}
  default: {cpu: 2, memory: 4Gi, gpu: {count: 1}, tolerations: [{key: shared, effect: NoSchedule}]}
schedules:
  - {name: nightly, pipeline: training, cron: "30  3 * * 1-5", time_zone: Europe/Berlin, catch_up: none}
  - {name: hourly, pipeline: batch_prediction, cron: "15 * * * *", scheduler: kubeflow}
"""


@pytest.fixture(scope="module")
def project() -> Project:
    return parse_project(PROJECT).located_at(Path("slipway.yaml"))


@pytest.fixture(scope="module")
def compiled(project: Project) -> CompiledPipeline:
    return compile_pipeline(project)


def assert_whole(made: dict[str, Any], kind: str) -> None:
    """Reads an object with Kubernetes' types, which drop what they do not know, and compares what is left of it."""

    class Answer:
        data = json.dumps(made)

    client = kubernetes.client.ApiClient()
    read = client.sanitize_for_serialization(client.deserialize(Answer, kind))
    assert read == made


def test_the_version_is_what_the_sdk_itself_would_write(
    project: Project, compiled: CompiledPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "manifests.yaml"
    Compiler().compile(
        build_training(cluster_settings(project).model_dump(mode="json")),
        str(file),
        kubernetes_manifest_format=True,
        kubernetes_manifest_options=KubernetesManifestOptions(
            pipeline_name=compiled.name,
            pipeline_version_name=compiled.version,
            namespace="ml",
            include_pipeline_manifest=True,
        ),
    )
    theirs = {entry["kind"]: entry for entry in yaml.safe_load_all(file.read_text())}
    for ours in yaml.safe_load_all(to_yaml(pipeline_manifests(project, compiled))):
        expected = theirs[ours["kind"]]
        assert ours["apiVersion"] == expected["apiVersion"]
        assert {key: ours["metadata"][key] for key in ("name", "namespace")} == {
            key: expected["metadata"][key] for key in ("name", "namespace")
        }
        assert ours["spec"] == expected["spec"]


def test_a_version_is_named_by_its_content_and_comes_after_its_pipeline(
    project: Project, compiled: CompiledPipeline
) -> None:
    pipeline, version = pipeline_manifests(project, compiled)
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == project.name
    assert version["metadata"]["name"] == compiled.version
    waves = [entry["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] for entry in (pipeline, version)]
    assert waves == sorted(waves)
    assert len(set(waves)) == 2
    assert len(to_yaml([version])) < 256 * 1024, "kubectl keeps the object in an annotation of at most this size"


def test_a_run_is_a_job_that_is_made_once(project: Project, compiled: CompiledPipeline) -> None:
    job = run_manifest(project, compiled)
    assert_whole(job, "V1Job")
    assert job == run_manifest(project, compiled)
    names = {
        run_manifest(project, compiled, parameters, label)["metadata"]["name"]
        for parameters, label in (({}, ""), ({"window_end": "2026-01-01"}, ""), ({}, "again"))
    }
    assert len(names) == 3
    assert all(len(name) <= 63 for name in names), "a Job's name is a label of its pods"
    assert "ttlSecondsAfterFinished" not in job["spec"], "a tool that finds it missing would run it again"
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["requests"] == {"cpu": "50m", "memory": "256Mi"}, "it only sends a message"
    assert pod["tolerations"] == [{"key": "shared", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    command = container["command"]
    assert command[command.index("--pipeline-root") + 1] == f"s3://artifacts/slipway/{project.name}"


def test_a_schedule_of_kubernetes_is_a_cron_job_in_its_own_zone(project: Project, compiled: CompiledPipeline) -> None:
    (cron,) = schedule_manifests(project, compiled, project.schedules)
    assert_whole(cron, "V1CronJob")
    assert (cron["spec"]["schedule"], cron["spec"]["timeZone"]) == ("30 3 * * 1-5", "Europe/Berlin")
    assert cron["spec"]["startingDeadlineSeconds"] == 120, "what was missed is not made up for"
    assert len(cron["metadata"]["name"]) <= 52


def test_a_schedule_of_kubeflow_counts_seconds_first(project: Project) -> None:
    compiled = compile_pipeline(project, "batch_prediction")
    (job,) = schedule_manifests(project, compiled, project.schedules)
    assert_whole(job, "V1Job")
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert '"cron": "0 15 * * * *"' in command[command.index("--schedule") + 1]


def test_no_text_becomes_a_boolean_on_the_way(project: Project) -> None:
    text = to_yaml([{"kind": "Thing", "spec": {"y": "no", "when": "2026-01-01", "size": "1e3", "umlaut": "ü"}}])
    assert yaml.safe_load(text)["spec"] == {"y": "no", "when": "2026-01-01", "size": "1e3", "umlaut": "ü"}
    assert text.isascii()
