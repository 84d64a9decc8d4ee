"""A real Prometheus that scrapes one page of metrics, which the test writes."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 20.0, what: str = "the condition") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


class Target:
    """A page of metrics on loopback; `page` is what the next scrapes see."""

    def __init__(self) -> None:
        self.page = ""
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = target.page.encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Prometheus:
    """A Prometheus process, and a way to wait until it has seen the target's page."""

    def __init__(self, directory: Path, target: Target) -> None:
        self.target = target
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            f"scrape_configs: [{{job_name: page, static_configs: [{{targets: ['127.0.0.1:{target.port}']}}]}}]\n"
        )
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ],
        )
        self._generation = 0

    def show(self, page: str) -> float:
        """Serves `page`, waits until it was scraped, and returns the time of an evaluation that sees it."""
        self._generation += 1
        self.target.page = f"{page}\npage_generation {self._generation}\n"
        wait_until(self._seen, what="the scrape")
        return time.time()

    def _seen(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/api/v1/query", params={"query": "page_generation"}, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return False
        return any(float(entry["value"][1]) == self._generation for entry in answer["data"]["result"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    target = Target()
    server = Prometheus(tmp_path, target)
    yield server
    server.stop()
    target.server.shutdown()
    target.server.server_close()
