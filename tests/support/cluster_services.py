"""Servers of a test that pods talk to: this machine's address as pods see it, an MLflow server, a chat's webhook."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster_namespace import Cluster
from ended_process import end

ADDRESS_VARIABLE = "CLUSTER_TEST_ADDRESS"


def address_for_pods(cluster: Cluster) -> str | None:
    """Returns an address of this machine that pods can reach, as far as that can be told from here.

    CLUSTER_TEST_ADDRESS if it is set; else the address from which this machine talks to the API server, or that of a
    node which is this very machine.
    """
    named = os.environ.get(ADDRESS_VARIABLE)
    if named:
        return named
    server = cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}").stdout
    candidates = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((urlsplit(server).hostname or "", 9))
        candidates.append(str(probe.getsockname()[0]))
    for node in cluster.get("nodes")["items"]:
        candidates += [entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"]
    return next((address for address in candidates if not address.startswith("127.") and _is_own(address)), None)


def _is_own(address: str) -> bool:
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


@contextmanager
def mlflow_server(address: str, folder: Path) -> Iterator[str]:
    """Runs an MLflow server until the block ends, and gives its URL."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", address, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/kept"]
    command += ["--allowed-hosts", "*"]
    url, deadline = f"http://{address}:{port}", time.monotonic() + 400
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while True:
            assert process.poll() is None, (folder / "mlflow.log").read_text()
            assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield url
    finally:
        end(process)


class Webhook:
    """A chat's webhook: keeps what is posted to it."""

    def __init__(self, address: str) -> None:
        self.messages: list[str] = []
        self._server = http.server.ThreadingHTTPServer((address, 0), self._handler())
        self.url = f"http://{address}:{self._server.server_port}/services/T0/B0/abc"

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        messages = self.messages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                messages.append(str(content["text"]))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        return Handler
