"""Counters as predictors would show them, for pods that answer nothing, and a Prometheus that reads them.

What a version answers follows the weights that its HTTPRoute has in truth, so that a controller sees what it did.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from slipway.contracts.metrics import LATENCY, REQUESTS

REQUESTS_PER_SECOND = 200.0


class MadeUpTraffic:
    """Counts requests by version as time passes.

    Args:
        namespace: Label of the series.
        model: Label of the series.
        weights: Returns percent by version, as the route has it now.
        errors: Share of errors by version; 0 where not named.
    """

    def __init__(
        self, namespace: str, model: str, weights: Callable[[], Mapping[str, int]], errors: Mapping[str, float]
    ) -> None:
        self._labels = f'namespace="{namespace}",model="{model}"'
        self._weights, self._errors = weights, errors
        self._counts: dict[str, float] = {}
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._silent: set[str] = set()
        self.largest: dict[str, int] = {}

    def silence(self, version: str) -> None:
        """Has a version count nothing, as one does that nobody scrapes."""
        self._silent.add(version)

    def tick(self) -> None:
        """Counts what came since the last call."""
        weights = self._weights()
        now = time.monotonic()
        with self._lock:
            came = REQUESTS_PER_SECOND * (now - self._last)
            self._last = now
            for version, weight in weights.items():
                self.largest[version] = max(weight, self.largest.get(version, 0))
                if version in self._silent:
                    continue
                self._counts[version] = self._counts.get(version, 0.0) + came * weight / 100

    def page(self) -> str:
        """Returns the counters in Prometheus' text format; a page for each version would come from its pod."""
        lines = []
        with self._lock:
            for version, count in self._counts.items():
                labels = f'{self._labels},version="{version}"'
                total, share = int(count), self._errors.get(version, 0.0)
                failed = int(total * share)
                lines.append(f'{REQUESTS.name}{{{labels},code="200"}} {total - failed}')
                lines.append(f'{REQUESTS.name}{{{labels},code="500"}} {failed}')
                lines += [f'{LATENCY.name}_bucket{{{labels},le="{bound:g}"}} {total}' for bound in LATENCY.buckets]
                lines.append(f"{LATENCY.name}_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def prometheus_of(traffic: MadeUpTraffic, folder: Path) -> Iterator[str]:
    """A Prometheus process that scrapes the traffic twice a second; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = traffic.page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = threading.Event()

    def count() -> None:
        while not stop.wait(0.2):
            traffic.tick()

    counting = threading.Thread(target=count, daemon=True)
    counting.start()
    port = _free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 400ms}\n"
        "scrape_configs: [{job_name: pods, honor_labels: true, "
        f"static_configs: [{{targets: ['127.0.0.1:{server.server_port}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(url):
            assert time.monotonic() < deadline, "Prometheus is not ready"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        stop.set()
        counting.join(10)
        server.shutdown()
        server.server_close()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
