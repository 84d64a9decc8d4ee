"""The manifests on a real API server: admitted, applied again without a change, immutable where that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster_namespace import Cluster

from slipway.cli.main import run_command_line

pytestmark = pytest.mark.cluster

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: tiny-test
data: {{interactions: {{source: "s3://events/ratings/"}}}}
batch_prediction: {{input: "s3://events/users/"}}
retraining: {{window: 30d}}
kubernetes:
  namespace: {namespace}
  service_account: runner
  pipeline_root: s3://artifacts/slipway
  s3: {{endpoint: "http://s3.example:9000", secret: s3-keys}}
  steps: {{train: {{gpu: {{count: 1}}, spot: true}}}}
  notification: {{webhook: {{secret: chat, key: url}}}}
schedules:
  - {{name: nightly, cron: "30 3 * * *", time_zone: Europe/Berlin}}
  - {{name: hourly, pipeline: batch_prediction, cron: "15 * * * *", scheduler: kubeflow}}
"""
PIPELINES = ("training", "retraining", "batch-prediction")


def compile_into(folder: Path, cluster: Cluster, *options: str) -> Path:
    (folder / "slipway.yaml").write_text(PROJECT.format(namespace=cluster.namespace))
    for pipeline in PIPELINES:
        command = ["compile", "-f", str(folder), "--pipeline", pipeline, "--manifests", str(folder / "deploy")]
        assert run_command_line([*command, *options]) == 0
    return folder / "deploy"


def versions_of(cluster: Cluster) -> dict[str, str]:
    """Returns {kind/name: resource version} of what was applied, but for what controllers write into a status."""
    found: dict[str, Any] = cluster.get(
        "pipelines,pipelineversions,cronjobs,jobs", "-l", "app.kubernetes.io/part-of=tiny-test"
    )
    return {f"{entry['kind']}/{entry['metadata']['name']}": entry["metadata"]["uid"] for entry in found["items"]}


def test_everything_is_admitted_and_applying_it_again_changes_nothing(installation: Cluster, tmp_path: Path) -> None:
    cluster, deploy = installation, compile_into(tmp_path, installation)
    first = cluster.kubectl("apply", "-f", str(deploy))
    assert first.stderr == "", "no warning"
    assert first.stdout.count(" created") == 3 + 3 + 3 + 2
    made = versions_of(cluster)
    again = cluster.kubectl("apply", "-f", str(deploy)).stdout.splitlines()
    assert len(again) == len(made)
    assert all(line.endswith(" unchanged") for line in again), again
    assert versions_of(cluster) == made


def test_the_pods_are_admitted_where_only_restricted_ones_are(cluster: Cluster, tmp_path: Path) -> None:
    deploy = compile_into(tmp_path, cluster)
    for file in sorted([*deploy.glob("*-2-schedules.yaml"), *deploy.glob("*-3-run.yaml")]):
        assert cluster.kubectl("apply", "-f", str(file)).stderr == "", "no warning of pod security"
    cluster.kubectl("create", "job", "now", "--from=cronjob/tiny-test-retraining-nightly")

    def pods() -> list[Any] | None:
        found: list[Any] = cluster.get("pods")["items"]
        return found if len(found) == 5 else None

    # The Job controller makes the pods; admission refuses those that break a rule.
    for pod in cluster.wait_for("a pod a Job", pods):
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert "kube-api-access" not in str(pod["spec"]["volumes"]), "it has no token for the API of Kubernetes"


def test_a_version_holds_what_was_compiled(installation: Cluster, tmp_path: Path) -> None:
    cluster, deploy = installation, compile_into(tmp_path, installation, "--no-run")
    cluster.kubectl("apply", "-f", str(deploy))
    assert cluster.get("jobs", "-l", "app.kubernetes.io/part-of=tiny-test")["items"][0]["metadata"]["name"].startswith(
        "schedule-"
    )
    found = {entry["spec"]["pipelineName"]: entry for entry in cluster.get("pipelineversions")["items"]}
    spec = found["tiny-test"]["spec"]
    assert spec["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["nodeSelector"]
    parameters = spec["pipelineSpec"]["components"]["comp-observe"]["inputDefinitions"]["parameters"]
    assert {"config", "place", "window_end"} <= set(parameters)


def test_a_run_cannot_be_turned_into_another(cluster: Cluster, tmp_path: Path) -> None:
    deploy = compile_into(tmp_path, cluster)
    run = next(deploy.glob("tiny-test-3-run.yaml"))
    cluster.kubectl("apply", "-f", str(run))
    changed = run.read_text().replace("--run-name", "--run-name=another\n        - --run-name")
    refused = cluster.kubectl("apply", "-f", "-", text=changed, check=False)
    assert refused.returncode != 0
    assert "immutable" in refused.stderr
