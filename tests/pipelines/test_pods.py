"""What the project file says about a cluster, and the pod that each step gets from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.contracts.errors import ProjectFileError, UsageError
from slipway.contracts.project import Project, load_project, parse_project
from slipway.pipelines.compile import compile_pipeline
from slipway.pipelines.kubernetes.images import image_references, unpinned
from slipway.pipelines.kubernetes.pods import pod_settings, pod_template

PROJECT = """\
apiVersion: slipway.dev/v1alpha1
name: tiny
data: {interactions: {source: "s3://events/ratings/"}}
kubernetes:
  s3: {endpoint: "http://s3.kubeflow:9000", secret: s3-keys, access_key: accesskey, secret_key: secretkey}
  project: {claim: shared, mount: /work}
  default: {cpu: 500m, memory: 1Gi, node_selector: {pool: small}}
  steps:
    train:
      {cpu: 8, memory: 32Gi, gpu: {count: 2}, spot: true, node_selector: {pool: gpu},
       tolerations: [{key: nvidia.com/gpu, effect: NoSchedule}]}
  secrets: [{secret: mlflow, env: {MLFLOW_TRACKING_TOKEN: token}, steps: [train, register]}]
  volumes:
    - {empty: true, size: 20Gi, mount: /scratch, steps: [train]}
    - {config_map: settings, mount: /etc/settings}
"""


SMALLEST = "apiVersion: slipway.dev/v1alpha1\nname: t\ndata: {interactions: {source: a.csv}}\n"


def project(text: str = PROJECT) -> Project:
    return parse_project(text).located_at(Path("slipway.yaml"))


def kubernetes_part(specification: dict[str, Any], step: str) -> dict[str, Any]:
    executors = specification["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found: dict[str, Any] = executors[f"exec-{step}"]
    return found


def test_a_step_gets_what_the_file_says_of_it_over_the_default() -> None:
    train, validate = (pod_settings(project(), step) for step in ("train", "validate"))
    assert train.placement.cpu == "8"
    assert train.placement.node_selector == {"pool": "gpu", "cloud.google.com/gke-spot": "true"}
    assert [toleration.key for toleration in train.placement.tolerations] == [
        "cloud.google.com/gke-spot",
        "nvidia.com/gpu",
    ]
    assert [volume.mount for volume in train.volumes] == ["/work", "/scratch", "/etc/settings"]
    assert [secret.secret for secret in train.secrets] == ["mlflow"]
    assert validate.placement.memory == "1Gi"
    assert validate.placement.gpu is None
    assert [volume.mount for volume in validate.volumes] == ["/etc/settings"], "it shares nothing with other runs"
    assert validate.secrets == ()


def test_only_what_reads_the_store_gets_its_keys() -> None:
    with_keys = {
        step
        for step in ("observe", "extract", "validate", "train", "register", "notify", "submit")
        if any(secret.secret == "s3-keys" for secret in pod_settings(project(), step).secrets)
    }
    assert with_keys == {"observe", "extract"}


def test_the_pipeline_carries_the_settings_to_its_pods() -> None:
    compiled = compile_pipeline(project())
    train = kubernetes_part(compiled.platform, "train")
    assert train["nodeSelector"]["labels"] == {"pool": "gpu", "cloud.google.com/gke-spot": "true"}
    assert train["pvcMount"][0] == {
        "constant": "shared",
        "mountPath": "/work",
        "pvcNameParameter": {"runtimeValue": {"constant": "shared"}},
    }
    assert train["secretAsEnv"][0]["keyToEnv"] == [{"envVar": "MLFLOW_TRACKING_TOKEN", "secretKey": "token"}]
    assert train["activeDeadlineSeconds"] == str(3600 + 900)
    resources = compiled.specification["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert resources["accelerator"]["resourceCount"] == "2"
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    extract = compiled.specification["deploymentSpec"]["executors"]["exec-extract"]["container"]
    assert {"name": "AWS_ENDPOINT_URL", "value": "http://s3.kubeflow:9000"} in extract["env"]
    # A secret is a name: no value of one can be in the pipeline, as the file has none.
    assert {entry["secretName"] for entry in kubernetes_part(compiled.platform, "extract")["secretAsEnv"]} == {
        "s3-keys"
    }


def test_a_sweep_or_a_job_gets_the_same_pod() -> None:
    template = pod_template(pod_settings(project(), "train"), name="trial", command=["train"])
    container = template["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 2}
    assert template["spec"]["nodeSelector"]["pool"] == "gpu"
    assert {"name": "volume-1", "emptyDir": {"sizeLimit": "20Gi"}} in template["spec"]["volumes"]
    token = {"name": "mlflow", "key": "token"}
    assert {"name": "MLFLOW_TRACKING_TOKEN", "valueFrom": {"secretKeyRef": token}} in container["env"]


def test_own_modules_bring_the_project_folder_to_every_step() -> None:
    own = project(PROJECT + 'model: {family: "mine:Model"}\n')
    assert "/work" in [volume.mount for volume in pod_settings(own, "featurize").volumes]
    assert "/work" not in [volume.mount for volume in pod_settings(own, "notify").volumes]


def test_images_are_those_of_the_list_by_digest(tmp_path: Path) -> None:
    digest = f"sha256:{'a' * 64}"
    images = {
        "train": {"repository": "localhost/slipway-train", "tag": "dev", "digest": digest},
        "validate": {"repository": "localhost/slipway-validate", "tag": "dev", "digest": None},
    }
    (tmp_path / "images.json").write_text(json.dumps({"images": images}))
    (tmp_path / "slipway.yaml").write_text(
        PROJECT + f"  images: {{file: images.json, registry: registry.example/ml, steps: {{register: "
        f"{{repository: other.example/register, digest: '{digest}'}}}}}}\n"
    )
    references = image_references(load_project(tmp_path))
    assert references["train"] == f"registry.example/ml/slipway-train@{digest}"
    assert references["validate"] == "registry.example/ml/slipway-validate:dev"
    assert references["extract"] == references["validate"], "it needs nothing that is not in there"
    assert references["register"] == f"other.example/register@{digest}"
    assert references["observe"] == references["register"]
    assert unpinned(references, ("train", "validate", "register")) == ["validate"]


def test_an_unreadable_list_of_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text("[")
    (tmp_path / "slipway.yaml").write_text(PROJECT + "  images: {file: images.json}\n")
    with pytest.raises(UsageError, match="list of images cannot be read"):
        image_references(load_project(tmp_path))


@pytest.mark.parametrize(
    ("part", "field", "words"),
    [
        ("{default: {memory: lots}}", "kubernetes.default.memory", "pattern"),
        ("{default: {cpu: -1}}", "kubernetes.default.cpu", "pattern"),
        ("{steps: {traine: {cpu: 1}}}", "kubernetes.steps.traine.[key]", "'train'"),
        ("{volumes: [{claim: a, empty: true, mount: /x}]}", "kubernetes.volumes[0]", "exactly one"),
        ("{volumes: [{claim: a, mount: x}]}", "kubernetes.volumes[0].mount", "absolute folder"),
        ("{volumes: [{claim: a, mount: /a}, {claim: b, mount: /a/}]}", "kubernetes", "mounted already"),
        ("{secrets: [{secret: A_b, env: {A: a}}]}", "kubernetes.secrets[0].secret", "pattern"),
        ("{secrets: [{secret: a, env: {1A: a}}]}", "kubernetes.secrets[0].env", "environment variable"),
        ("{images: {steps: {train: {digest: latest}}}}", "kubernetes.images.steps.train.digest", "pattern"),
        ("{default: {tolerations: [{key: a, operator: Equal}]}}", "kubernetes.default.tolerations[0]", "needs a value"),
        ("{notification: {when: [failed]}}", "kubernetes.notification", "webhook or mail"),
        ("{api: ml-pipeline:8888}", "kubernetes.api", "pattern"),
    ],
)
def test_mistakes_are_told_with_their_place(part: str, field: str, words: str) -> None:
    text = f"{SMALLEST}kubernetes: {part}\n"
    with pytest.raises(ProjectFileError) as caught:
        parse_project(text)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert problem.line == 4
    assert words in f"{problem.what} {problem.remedy}"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ('{name: a, cron: "0 3 * *"}', "has 4 fields"),
        ('{name: a, cron: "0 24 * * *"}', "hour: it goes from 0 to 23"),
        ('{name: a, cron: "*/0 3 * * *"}', "a step of 0"),
        ('{name: a, cron: "5-1 3 * * *"}', "minute"),
        ('{name: a, cron: "0 3 * * mon"}', "no day of the week"),
        ('{name: a, cron: "0 3 * * *", time_zone: Europe/Berlim}', "no time zone"),
        ('{name: a, cron: "0 3 * * *", maximum_concurrency: 2}', "overlap: allow"),
        ('{name: a, cron: "0 3 * * *", catch_up: all}', "scheduler: kubeflow"),
        ('{name: a, cron: "0 3 * * *", scheduler: kubeflow, overlap: replace}', "scheduler: kubernetes"),
        ('{name: a, cron: "0 3 * * *", scheduler: kubeflow, time_zone: Asia/Tokyo}', "scheduler: kubernetes"),
        ('{name: a, pipeline: batch_prediction, cron: "0 3 * * *"}', "add that part"),
        ('{name: a, cron: "0 3 * * *"}, {name: a, cron: "0 4 * * *"}', "two have the name 'a'"),
    ],
)
def test_schedules_that_cannot_be_kept_are_refused(schedule: str, words: str) -> None:
    text = f"{SMALLEST}schedules: [{schedule}]\n"
    with pytest.raises(ProjectFileError) as caught:
        parse_project(text)
    assert words in str(caught.value)


def test_good_schedules_are_kept_as_written() -> None:
    text = PROJECT + 'schedules: [{name: a, cron: " */15  1-5 1,15 * 0 ", time_zone: America/New_York}]\n'
    (schedule,) = project(text).schedules
    assert schedule.cron == "*/15 1-5 1,15 * 0"
    assert yaml.safe_load(schedule.model_dump_json())["time_zone"] == "America/New_York"
