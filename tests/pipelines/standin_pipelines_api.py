"""A stand-in for Kubeflow Pipelines' API with the behaviour that matters: runs of one name are not merged."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Object = dict[str, Any]


class PipelinesApi:
    """What the API holds, and what it was asked. `before_create` is called in each request that makes a run."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Object] = {}
        self.versions: list[Object] = []
        self.runs: list[Object] = []
        self.recurring: list[Object] = []
        self.logs: dict[str, str] = {}
        self.tokens: list[str | None] = []
        self.failures = 0
        self.before_create: Callable[[], None] = lambda: None
        self.address = ""
        self._lock = threading.Lock()

    def add_version(self, pipeline: str, version: str) -> None:
        """Makes a version, and its pipeline, as applying the manifests does."""
        entry = self.pipelines.setdefault(pipeline, {"pipeline_id": f"id-of-{pipeline}", "display_name": pipeline})
        self.versions.append(
            {"pipeline_id": entry["pipeline_id"], "pipeline_version_id": f"id-of-{version}", "display_name": version}
        )

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        parts = path.removeprefix("/apis/v2beta1/").split("/")
        if path.startswith("/apis/v1alpha1/runs/"):
            return 200, self.logs.get(path.split("/")[-2], "")
        if method == "GET" and parts[:2] == ["pipelines", "names"]:
            found = self.pipelines.get(parts[2])
            return (200, found) if found else (404, {"error": "Namespace/Pipeline not found"})
        if method == "POST" and parts == ["pipelines"]:
            self.pipelines[body["display_name"]] = {"pipeline_id": f"id-of-{body['display_name']}"}
            return 200, self.pipelines[body["display_name"]]
        if method == "POST" and parts == ["pipelines", "upload_version"]:
            name = next(name for name, entry in self.pipelines.items() if entry["pipeline_id"] == query["pipelineid"])
            assert b"pipelineInfo" in body
            self.add_version(name, query["display_name"])
            return 200, {}
        if method == "GET" and parts[0] == "pipelines" and parts[2:] == ["versions"]:
            return 200, self._page(
                [version for version in self.versions if version["pipeline_id"] == parts[1]], "pipeline_versions", query
            )
        if parts[0] == "runs":
            return self._answer_runs(method, parts, query, body)
        if method == "GET" and parts == ["recurringruns"]:
            return 200, self._page(self.recurring, "recurringRuns", query)
        if method == "POST" and parts == ["recurringruns"]:
            self.recurring.append(body | {"recurring_run_id": f"recurring-{len(self.recurring)}"})
            return 200, self.recurring[-1]
        if method == "POST" and parts[0] == "recurringruns" and parts[1].endswith(":disable"):
            entry = next(entry for entry in self.recurring if entry["recurring_run_id"] == parts[1].partition(":")[0])
            entry["mode"] = "DISABLE"
            return 200, {}
        if method == "DELETE" and parts[0] == "recurringruns":
            self.recurring = [entry for entry in self.recurring if entry["recurring_run_id"] != parts[1]]
            return 200, {}
        if parts == ["experiments"]:
            return 200, {"experiments": [{"experiment_id": "e-1", "display_name": "Default"}]}
        return 501, {"error": f"not made for {method} {path}"}

    def _answer_runs(self, method: str, parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        if method == "GET" and len(parts) == 1:
            (condition,) = json.loads(query["filter"])["predicates"]
            assert condition["key"] == "name"
            wanted = condition["string_value"]
            matches = {"EQUALS": lambda name: name == wanted, "IS_SUBSTRING": lambda name: wanted in name}
            found = [run for run in self.runs if matches[condition["operation"]](run["display_name"])]
            return 200, self._page(found, "runs", query)
        if method == "POST" and len(parts) == 1:
            self.before_create()
            with self._lock:
                # As the real one: times of whole seconds, so that two runs made at once cannot be told apart by them.
                made = body | {
                    "run_id": f"run-{len(self.runs):03d}",
                    "created_at": "2026-01-01T00:00:00Z",
                    "state": "PENDING",
                    "storage_state": "AVAILABLE",
                }
                self.runs.append(made)
            return 200, made
        run_id, _, verb = parts[1].partition(":")
        run = next((run for run in self.runs if run["run_id"] == run_id), None)
        if run is None:
            return 404, {"error": "run not found"}
        if verb == "terminate":
            run["state"] = "CANCELED"
        if verb == "archive":
            run["storage_state"] = "ARCHIVED"
        return 200, run

    def _page(self, entries: list[Object], field: str, query: dict[str, str]) -> Object:
        """Returns two entries at a time, whatever was asked for: a client has to follow the tokens."""
        start = int(query.get("page_token") or 0)
        rest = {"next_page_token": str(start + 2)} if start + 2 < len(entries) else {}
        return {field: entries[start : start + 2]} | rest


@contextmanager
def serving() -> Iterator[PipelinesApi]:
    """Serves a fresh API on a free port of loopback."""
    api = PipelinesApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def do_DELETE(self) -> None:
            self._do()

        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if content.startswith(b"{") else content
            address = urlsplit(unquote(self.path) if "filter" not in self.path else self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            api.tokens.append(self.headers.get("Authorization"))
            if api.failures > 0:
                api.failures -= 1
                code, answer = 503, {"error": "starting"}
            else:
                code, answer = api.answer(self.command, address.path, query, body)
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    api.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
