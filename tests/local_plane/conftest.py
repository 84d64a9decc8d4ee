"""A real plane (Redis, Prometheus, Traefik, supervisor) whose predictors are a small stand-in process."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from slipway.serving.local import control
from slipway.serving.local.desired import Arm, Desired, write_desired
from slipway.serving.local.observed import Observed, read_observed
from slipway.serving.local.probes import get_json, requests_in_flight
from slipway.serving.local.records import marked_processes
from slipway.serving.local.settings import PlaneSettings

STANDIN = Path(__file__).with_name("standin_predictor.py")


def eventually(condition: Callable[[], Any], seconds: float = 45.0) -> Any:
    """Returns the first true value of a condition; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"not within {seconds} s")


@dataclass
class Load:
    """Clients that keep asking the gateway until a number of requests was answered or failed."""

    port: int
    total: int
    clients: int = 8
    codes: Counter[Any] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def __enter__(self) -> Load:
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Sends nothing more."""
        with self._lock:
            self.total = self.sent

    def _client(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = b'{"instances":[{"user":"1"}]}'
        while True:
            with self._lock:
                if self.sent >= self.total:
                    break
                self.sent += 1
            version = ""
            try:
                connection.request("POST", "/v1/models/films:predict", body=body)
                response = connection.getresponse()
                content = response.read()
                code: Any = response.status
                version = json.loads(content)["version"] if code == 200 else ""
            except (OSError, HTTPException) as error:
                code = type(error).__name__
                connection.close()
            with self._lock:
                self.codes[code] += 1
                self.versions[version] += 1
        connection.close()


def ask(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """Returns status and content (parsed where it is JSON) of a POST."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(content)
    except ValueError:
        return response.status, content


@dataclass
class Plane:
    """One project's plane under test."""

    directory: Path

    def settings(self, **changes: Any) -> PlaneSettings:
        values: dict[str, Any] = {
            "project": "films",
            "directory": self.directory,
            "gateway_port": 18_080,
            "scrape_interval": 0.2,
            "drain_seconds": 5.0,
            "grace_seconds": 5.0,
            "collector": False,
            "controller": False,
            "predictor_command": (sys.executable, str(STANDIN)),
        }
        return PlaneSettings(**(values | changes))

    def arm(self, version: str, **changes: Any) -> Arm:
        values = {"name": f"films-v{version}", "model": "films", "version": version, "bundle": self.directory}
        return Arm(**(values | changes))

    def desire(self, arms: list[Arm], weights: dict[str, int]) -> None:
        write_desired(self.directory, Desired(arms=tuple(arms), weights=weights))

    def up(self, **changes: Any) -> Observed:
        control.start(self.settings(**changes))
        return control.wait_until_ready(self.directory, seconds=60)

    @property
    def observed(self) -> Observed:
        return read_observed(self.directory)

    def applied(self, weights: dict[str, int]) -> bool:
        observed = self.observed
        return {name: arm.weight_applied for name, arm in observed.arms.items() if arm.weight_applied} == weights

    def eventually(self, condition: Callable[[], Any], seconds: float = 45.0) -> Any:
        return eventually(condition, seconds)

    def load(self, total: int, **changes: Any) -> Load:
        return Load(self.gateway_port, total, **changes)

    def ask(self, path: str = "/v1/models/films:predict", body: bytes = b"{}", **headers: str) -> tuple[int, Any]:
        return ask(self.gateway_port, path, body, headers)

    def ask_arm(self, arm: str) -> tuple[int, Any]:
        port = int(self.observed.endpoints["direct"].rsplit(":", 1)[1])
        return ask(port, "/v1/models/films:predict", b"{}", {"x-slipway-arm": arm})

    def in_flight(self, arm: str) -> int:
        """Returns the requests that the arm's processes say they are answering now."""
        replicas = self.observed.arms[arm].replicas
        return int(sum(requests_in_flight(replica.metrics_url) or 0 for replica in replicas))

    def scraped(self, query: str) -> list[dict[str, Any]]:
        url = f"{self.observed.endpoints['prometheus']}/api/v1/query?query={quote(query)}"
        answer = get_json(url)
        return [] if answer is None else answer["data"]["result"]

    def pids(self) -> dict[str, int | None]:
        observed = self.observed
        pids = {name: service.pid for name, service in observed.services.items()}
        return pids | {one.name: one.pid for arm in observed.arms.values() for one in arm.replicas}

    @property
    def gateway_port(self) -> int:
        return int(self.observed.endpoints["gateway"].rsplit(":", 1)[1])

    def left_over(self) -> list[int]:
        return [process.pid for process in marked_processes(self.settings().layout.root)]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    yield from _plane(tmp_path)


@pytest.fixture(scope="module")
def shared_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One plane for the tests of a module that leave it as they found it."""
    yield from _plane(tmp_path_factory.mktemp("plane"))


def _plane(directory: Path) -> Iterator[Plane]:
    plane = Plane(directory.resolve())
    yield plane
    control.stop(plane.directory)
    assert plane.left_over() == []
