"""Runs the containers of a compiled pipeline as pods of a cluster, with artifacts in an object store.

Each container runs with the command, arguments, environment, secrets, resources and placement of the pipeline, in a pod
that admits no more than pod security's `restricted` profile, with a read-only root. Three containers run in it one
after the other: `fetch` copies the inputs from the store to where KFP's paths lie (`/s3/bucket/key`), `main` is the
pipeline's own, `store` copies the outputs back. If `main` fails nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster_namespace import Cluster
from ir_walk import OUTPUT_FILE, ContainerCall, ContainerEnd

Object = dict[str, Any]

USER = 65532
STORE_SECRET = "artifact-store"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
HOPELESS = ("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")
# What the pipeline may say of a pod, and is carried out here.
KNOWN = {
    "activeDeadlineSeconds", "emptyDirMounts", "fieldPathAsEnv", "imagePullPolicy", "imagePullSecret", "nodeSelector",
    "pvcMount", "secretAsEnv", "tolerations",
}  # fmt: skip

# pyarrow alone: what moves artifacts shares no code with what makes them.
COPY = """
import json, os, pathlib, posixpath, sys
from urllib.parse import urlsplit
import pyarrow.fs as pafs
place = urlsplit(os.environ["AWS_ENDPOINT_URL"])
s3 = pafs.S3FileSystem(endpoint_override=place.netloc, scheme=place.scheme, region="us-east-1")
local = pafs.LocalFileSystem()
for name in json.loads(sys.argv[2]):
    key = name.removeprefix("s3://")
    here = pathlib.Path("/s3") / key
    if sys.argv[1] == "fetch":
        below = pafs.FileSelector(key, recursive=True, allow_not_found=True)
        for entry in [s3.get_file_info(key), *s3.get_file_info(below)]:
            if entry.type == pafs.FileType.File:
                to = pathlib.Path("/s3") / entry.path
                to.parent.mkdir(parents=True, exist_ok=True)
                pafs.copy_files(entry.path, str(to), source_filesystem=s3, destination_filesystem=local)
    else:
        for path in [here, *here.rglob("*")]:
            if path.is_file():
                to = str(path.relative_to("/s3"))
                pafs.copy_files(str(path), to, source_filesystem=local, destination_filesystem=s3)
if sys.argv[1] == "store":
    print("outputs: " + pathlib.Path(sys.argv[3]).read_text() if pathlib.Path(sys.argv[3]).exists() else "outputs: {}")
    for name in json.loads(sys.argv[4]):
        path = pathlib.Path("/tmp/kfp/outputs") / name
        if path.exists():
            print("parameter: " + json.dumps([name, path.read_text()]))
"""


@dataclass(frozen=True)
class IrPods:
    """Pods of one run in one namespace.

    Args:
        cluster: The namespace; it holds the secret `artifact-store` with the store's keys and its address for pods.
        platform: The second document of the compiled pipeline.
        run_id: Of the run; a label of the pods.
        helper: An image with Python and pyarrow.
        seconds: How long a pod may take.
    """

    cluster: Cluster
    platform: Mapping[str, Any]
    run_id: str
    helper: str
    seconds: float = 600.0

    def execute(self, call: ContainerCall) -> ContainerEnd:
        """Runs one container to its end and returns its exit code, what it gave and what it printed."""
        pod = self.pod(call)
        name = pod["metadata"]["name"]
        self.cluster.kubectl("apply", "-f", "-", text=json.dumps(pod))

        def ended() -> Object | None:
            found: Object = self.cluster.get("pod", name)
            waiting = [
                entry["state"].get("waiting", {})
                for kind in ("initContainerStatuses", "containerStatuses")
                for entry in found["status"].get(kind, ())
            ]
            stuck = [entry for entry in waiting if entry.get("reason") in HOPELESS]
            assert not stuck, f"{name}: {stuck[0]}"
            return found if found["status"].get("phase") in ("Succeeded", "Failed") else None

        found = self.cluster.wait_for(f"the end of pod {name}", ended, self.seconds)
        statuses = {entry["name"]: entry for entry in found["status"].get("initContainerStatuses", ())}
        log = self.cluster.kubectl("logs", name, "-c", "main", check=False).stdout
        main = statuses.get("main", {}).get("state", {}).get("terminated")
        if main is None:
            reason = self.cluster.kubectl("logs", name, "-c", "fetch", check=False).stdout
            raise AssertionError(f"{name} never began: {found['status']}\n{reason}")
        if main["exitCode"] != 0:
            return ContainerEnd(int(main["exitCode"]), log=log)
        assert found["status"]["phase"] == "Succeeded", f"{name}: {found['status']}"
        return ContainerEnd(0, self._outputs(name, call), log)

    def pod(self, call: ContainerCall) -> Object:
        """Returns the pod of one attempt at one container.

        Raises:
            NotImplementedError: The pipeline asks for what is not carried out here.
        """
        executors = self.platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
        wanted: Mapping[str, Any] = executors.get("executors", {}).get(call.executor_label, {})
        if unknown := set(wanted) - KNOWN:
            raise NotImplementedError(f"{call.path}: {sorted(unknown)}")
        inputs, outputs = call.executor_input["inputs"], call.executor_input["outputs"]
        fetched = [artifact["artifacts"][0]["uri"] for artifact in inputs["artifacts"].values()]
        stored = [artifact["artifacts"][0]["uri"] for artifact in outputs["artifacts"].values()]
        spec: Object = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": [
                self._helper("fetch", wanted, json.dumps(fetched)),
                self._main(call, wanted),
            ],
            "containers": [
                self._helper("store", wanted, json.dumps(stored), OUTPUT_FILE, json.dumps(list(outputs["parameters"])))
            ],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "s3", "emptyDir": {}},
                *({"name": mount["volumeName"], "emptyDir": {}} for mount in wanted.get("emptyDirMounts", ())),
                *(
                    {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": mount["constant"]}}
                    for number, mount in enumerate(wanted.get("pvcMount", ()))
                ),
            ],
        }
        if "activeDeadlineSeconds" in wanted:
            spec["activeDeadlineSeconds"] = int(wanted["activeDeadlineSeconds"])
        if "nodeSelector" in wanted:
            spec["nodeSelector"] = wanted["nodeSelector"]["labels"]
        if "tolerations" in wanted:
            spec["tolerations"] = wanted["tolerations"]
        if "imagePullSecret" in wanted:
            spec["imagePullSecrets"] = [{"name": entry["secretName"]} for entry in wanted["imagePullSecret"]]
        name = f"{self.run_id}-{call.path.replace('/', '-')}-{call.attempt}".replace("_", "-").lower()
        # Kubeflow Pipelines labels its pods so, and the steps' run id is read from there.
        labels = {"pipeline/runid": self.run_id}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
        }

    def _main(self, call: ContainerCall, wanted: Mapping[str, Any]) -> Object:
        told = json.dumps(call.executor_input)

        def filled(text: str) -> str:
            if text == "{{$}}":
                return told
            if "{{$" in text:
                raise NotImplementedError(f"{call.path}: {text}")
            return text

        # Kubernetes would take $(name) in a command for a variable of its own.
        command, arguments = (
            [filled(text).replace("$(", "$$(") for text in call.executor.get(part, ())] for part in ("command", "args")
        )
        environment: list[Object] = [dict(entry) for entry in call.executor.get("env", ())]
        environment += [
            {"name": entry["name"], "valueFrom": {"fieldRef": {"fieldPath": entry["fieldPath"]}}}
            for entry in wanted.get("fieldPathAsEnv", ())
        ]
        environment += [
            {
                "name": key["envVar"],
                "valueFrom": {"secretKeyRef": {"name": entry["secretName"], "key": key["secretKey"]}},
            }
            for entry in wanted.get("secretAsEnv", ())
            for key in entry["keyToEnv"]
        ]
        mounts = [
            *(
                {"name": mount["volumeName"], "mountPath": mount["mountPath"]}
                for mount in wanted.get("emptyDirMounts", ())
            ),
            *(
                {"name": f"claim-{number}", "mountPath": mount["mountPath"]}
                for number, mount in enumerate(wanted.get("pvcMount", ()))
            ),
        ]
        return {
            **self._container("main", call.executor["image"], wanted, mounts),
            "command": command,
            "args": arguments,
            "env": environment,
            "resources": _resources(call.executor.get("resources", {})),
        }

    def _helper(self, name: str, wanted: Mapping[str, Any], *arguments: str) -> Object:
        keys = [{"name": key, "valueFrom": {"secretKeyRef": {"name": STORE_SECRET, "key": key}}} for key in KEYS]
        return {
            **self._container(name, self.helper, wanted, []),
            "command": ["python", "-c", COPY, name, *arguments],
            "env": keys,
        }

    def _container(self, name: str, image: str, wanted: Mapping[str, Any], mounts: list[Object]) -> Object:
        return {
            "name": name,
            "image": image,
            "imagePullPolicy": wanted.get("imagePullPolicy", "IfNotPresent"),
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "s3", "mountPath": "/s3"}, *mounts],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
        }

    def _outputs(self, pod: str, call: ContainerCall) -> Object:
        outputs: Object = {}
        parameters: Object = {}
        for line in self.cluster.kubectl("logs", pod, "-c", "store").stdout.splitlines():
            kind, _, content = line.partition(": ")
            if kind == "outputs":
                outputs = json.loads(content)
            elif kind == "parameter":
                name, text = json.loads(content)
                parameters[name] = text
        return outputs | {"parameterValues": {**outputs.get("parameterValues", {}), **parameters}}


def _resources(spec: Mapping[str, Any]) -> Object:
    requests = {
        unit: spec[field]
        for unit, field in (("cpu", "resourceCpuRequest"), ("memory", "resourceMemoryRequest"))
        if field in spec
    }
    limits: Object = {
        unit: spec[field]
        for unit, field in (("cpu", "resourceCpuLimit"), ("memory", "resourceMemoryLimit"))
        if field in spec
    }
    if "accelerator" in spec:
        limits[spec["accelerator"]["resourceType"]] = spec["accelerator"]["resourceCount"]
    return {"requests": requests, "limits": limits}
