"""The part of Kubeflow Pipelines' REST API (v2beta1) that starts, finds and follows runs; standard library only.

A small client, as the pod that submits a run should need neither KFP's SDK nor its dependencies.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from slipway.contracts.errors import ServiceError, UsageError

TOKEN_PATH_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - as KFP's SDK calls it
TOKEN_VARIABLE = "KF_PIPELINES_TOKEN"  # noqa: S105
API_VARIABLE = "KF_PIPELINES_ENDPOINT"
TIMEOUT_SECONDS = 30.0
PAUSES_SECONDS = (1.0, 3.0, 10.0)
_PAGE = 100
_NOT_FOUND = 404

Object = dict[str, Any]


class NotThereError(ServiceError):
    """The API answers, and what was asked for is not there."""


class PipelinesClient:
    """Kubeflow Pipelines at one address.

    Args:
        address: Of the API, such as http://ml-pipeline.kubeflow:8888.
        namespace: Of the runs; installations for several users need it.
        pauses: Seconds between attempts while the API does not answer.
    """

    def __init__(self, address: str, namespace: str, *, pauses: tuple[float, ...] = PAUSES_SECONDS) -> None:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
            raise UsageError(f"{address!r} is no address", where="api", remedy="Write it as http://host:port.")
        self.address = address.rstrip("/")
        self.namespace = namespace
        self._pauses = pauses

    def pipeline_version(self, pipeline: str, version: str) -> Mapping[str, str]:
        """Returns {"pipeline_id", "pipeline_version_id"} of a version by name.

        Raises:
            NotThereError: The API knows no such version (yet).
            ServiceError: The API does not answer.
        """
        absent = NotThereError(
            f"there is no version {version} of the pipeline {pipeline}",
            where=self.address,
            remedy="Apply its manifests first: slipway compile --manifests DIR; kubectl apply -f DIR",
        )
        pipeline_id = self.pipeline_id(pipeline)
        if pipeline_id is None:
            raise absent
        for entry in self._pages(f"/pipelines/{quote(pipeline_id)}/versions", "pipeline_versions", {}):
            if version in (entry.get("name"), entry.get("display_name")):
                return {"pipeline_id": pipeline_id, "pipeline_version_id": str(entry["pipeline_version_id"])}
        raise absent

    def pipeline_id(self, pipeline: str) -> str | None:
        """Returns the id of the pipeline of this name, if there is one."""
        path = f"/pipelines/names/{quote(pipeline)}?{urlencode({'namespace': self.namespace})}"
        try:
            return str(self._ask("GET", path, absent=NotThereError(f"there is no pipeline {pipeline}"))["pipeline_id"])
        except NotThereError:
            return None

    def create_pipeline(self, name: str) -> str:
        """Makes an empty pipeline and returns its id."""
        made = self._ask("POST", "/pipelines", {"name": name, "display_name": name, "namespace": self.namespace})
        return str(made["pipeline_id"])

    def upload_version(self, pipeline_id: str, version: str, text: str) -> None:
        """Makes a version of a pipeline from its IR."""
        boundary = secrets.token_hex(16)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="uploadfile"; filename="{version}.yaml"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n{text}\r\n--{boundary}--\r\n".encode()
        # In Kubernetes-native mode the object becomes <pipeline>-<version>, beside the one that kubectl would apply:
        # under the same name it would stand in that one's way, as it cannot be changed any more.
        query = urlencode({"name": version, "display_name": version, "pipelineid": pipeline_id})
        path = f"/pipelines/upload_version?{query}"
        self._ask("POST", path, body, content_type=f"multipart/form-data; boundary={boundary}")

    def runs_named(self, name: str) -> list[Object]:
        """Returns the runs of exactly this name, oldest first."""
        return self._runs("EQUALS", name)

    def runs_of_schedule(self, prefix: str) -> list[Object]:
        """Returns the runs whose name begins with `prefix` and a hyphen, oldest first."""
        return [run for run in self._runs("IS_SUBSTRING", prefix) if run["display_name"].startswith(f"{prefix}-")]

    def create_run(self, name: str, **fields: Any) -> Object:
        """Makes a run; it does not look whether there is one of this name."""
        return self._ask("POST", "/runs", {"display_name": name, **fields})

    def run(self, run_id: str) -> Object:
        """Returns a run with its state and details."""
        return self._ask("GET", f"/runs/{quote(run_id)}")

    def terminate(self, run_id: str) -> None:
        """Ends a run; one that has ended stays as it is."""
        self._ask("POST", f"/runs/{quote(run_id)}:terminate", {}, tolerate=True)

    def archive(self, run_id: str) -> None:
        """Takes a run out of the lists."""
        self._ask("POST", f"/runs/{quote(run_id)}:archive", {}, tolerate=True)

    def recurring_runs(self, prefix: str) -> list[Object]:
        """Returns the recurring runs whose name begins with `prefix` and a hyphen."""
        found = self._pages("/recurringruns", "recurringRuns", self._scope())
        return [entry for entry in found if str(entry.get("display_name", "")).startswith(f"{prefix}-")]

    def create_recurring_run(self, name: str, **fields: Any) -> Object:
        """Makes a recurring run."""
        return self._ask("POST", "/recurringruns", {"display_name": name, **fields})

    def disable_recurring_run(self, recurring_run_id: str) -> None:
        """Lets a recurring run make no more runs."""
        self._ask("POST", f"/recurringruns/{quote(recurring_run_id)}:disable", {})

    def delete_recurring_run(self, recurring_run_id: str) -> None:
        """Removes a recurring run, and with it what it started and what has not ended yet."""
        self._ask("DELETE", f"/recurringruns/{quote(recurring_run_id)}")

    def default_experiment(self) -> str | None:
        """Returns the id of the experiment called Default, if there is one; recurring runs need an experiment."""
        for entry in self._pages("/experiments", "experiments", self._scope()):
            if entry.get("display_name") == "Default":
                return str(entry["experiment_id"])
        return None

    def log(self, run_id: str, pod: str) -> str:
        """Returns the log of a task's pod, or an empty text where there is none any more."""
        try:
            url = f"{self.address}/apis/v1alpha1/runs/{quote(run_id)}/nodes/{quote(pod)}/log"
            return self._send("GET", url, None).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return ""

    def _runs(self, operation: str, name: str) -> list[Object]:
        condition = {"operation": operation, "key": "name", "string_value": name}
        query = self._scope() | {"filter": json.dumps({"predicates": [condition]}), "sort_by": "created_at asc"}
        return [run for run in self._pages("/runs", "runs", query) if run.get("storage_state") != "ARCHIVED"]

    def _scope(self) -> dict[str, str]:
        return {"namespace": self.namespace}

    def _pages(self, path: str, field: str, query: Mapping[str, str]) -> Iterator[Object]:
        token = ""
        while True:
            answer = self._ask("GET", f"{path}?{urlencode({**query, 'page_size': _PAGE, 'page_token': token})}")
            yield from answer.get(field) or ()
            token = answer.get("next_page_token") or ""
            if not token:
                return

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        absent: NotThereError | None = None,
        tolerate: bool = False,
        content_type: str = "application/json",
    ) -> Object:
        url = f"{self.address}/apis/v2beta1{path}"
        content = json.dumps(body, allow_nan=False).encode() if isinstance(body, Mapping) else body
        # What creates something is sent once: whether it arrived is found out by looking, not by sending it again.
        attempts: tuple[float | None, ...] = (*self._pauses, None) if method == "GET" else (None,)
        for pause in attempts:
            try:
                answer = self._send(method, url, content, content_type)
                return json.loads(answer) if answer.strip() else {}
            except urllib.error.HTTPError as error:
                reason = _reason(error)
                if absent is not None and (error.code == _NOT_FOUND or "not found" in reason.lower()):
                    raise absent from error
                if tolerate:
                    return {}
                if error.code < http.client.INTERNAL_SERVER_ERROR or pause is None:
                    raise ServiceError(
                        f"Kubeflow Pipelines refused: {reason}", where=f"{method} {url.partition('?')[0]}"
                    ) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if pause is None:
                    raise ServiceError(
                        f"Kubeflow Pipelines does not answer ({error})",
                        where=self.address,
                        remedy="Check kubernetes.api, or forward the port: "
                        "kubectl -n kubeflow port-forward svc/ml-pipeline 8888",
                    ) from error
            time.sleep(pause or 0.0)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, method: str, url: str, content: bytes | None, content_type: str = "application/json") -> bytes:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        token = _token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310 - checked at construction
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            return bytes(answer.read())


def _token() -> str:
    # Read anew each time: Kubernetes renews the file.
    path = os.environ.get(TOKEN_PATH_VARIABLE)
    if path:
        try:
            return Path(path).read_text().strip()
        except OSError:
            return ""
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        content = json.loads(error.read())
        return str(content.get("error") or content.get("message") or f"HTTP {error.code}")[:500]
    except (OSError, ValueError, AttributeError):
        return f"HTTP {error.code}"
