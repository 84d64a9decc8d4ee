"""A router in front of a server, both real processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from slipway.contracts.files import write_json

UPSTREAM = Path(__file__).with_name("upstream_process.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def seen(self) -> dict[str, list[str]]:
        """The headers that the server behind the router received, by name."""
        values: dict[str, list[str]] = {}
        for name, value in self.json["headers"]:
            values.setdefault(name, []).append(value)
        return values

    @property
    def arm(self) -> str:
        (arm,) = self.seen["x-slipway-arm"]
        return arm


@dataclass
class Running:
    """The two processes, their ports and their files."""

    directory: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    upstream_port: int = field(default_factory=free_port)
    upstream: subprocess.Popen[bytes] | None = None
    router: subprocess.Popen[bytes] | None = None

    @staticmethod
    def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Returns the first true value of a condition; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s")

    @property
    def file(self) -> Path:
        return self.directory / "assignment.json"

    @property
    def log(self) -> str:
        return (self.directory / "router.log").read_text()

    def write(self, **arms: float) -> None:
        named = {name.replace("_", "-"): weight for name, weight in arms.items()}
        write_json(self.file, {"salt": "s", "layer": "films", "arms": named})

    def start_upstream(self) -> None:
        self.upstream = subprocess.Popen([sys.executable, str(UPSTREAM), str(self.upstream_port)])
        self.eventually(lambda: listens(self.upstream_port))

    def stop_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream.kill()
            self.upstream.wait()
            self.upstream = None

    def start_router(self, *, wait: bool = True) -> None:
        command = [sys.executable, "-m", "slipway.serving.router", "--port", str(self.port)]
        command += ["--upstream", f"http://127.0.0.1:{self.upstream_port}", "--assignment", str(self.file)]
        command += ["--metrics-port", str(self.metrics_port), *self.options]
        with (self.directory / "router.log").open("w") as log:
            self.router = subprocess.Popen(command, stderr=log)
        if wait:
            self.eventually(lambda: listens(self.port))

    def stop_router(self) -> int:
        assert self.router is not None
        if self.router.poll() is None:
            self.router.send_signal(signal.SIGTERM)
        return self.router.wait(timeout=20)

    def ask(
        self, path: str = "/echo", body: Any = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.reason, response.getheaders(), response.read())
        finally:
            connection.close()

    def arm_of(self, user: str) -> str:
        return self.ask(body={"instances": [{"user": user}]}).arm

    def raw(self, data: bytes, *, until: bytes | None = None) -> bytes:
        """Sends bytes and returns all that comes until the router closes, or until `until` was seen."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(data)
            received = b""
            while until is None or until not in received:
                part = client.recv(65536)
                if not part:
                    break
                received += part
            return received

    def metric(self, name: str, **labels: str) -> float:
        connection = HTTPConnection("127.0.0.1", self.metrics_port, timeout=20)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] == name and all(label in line for label in wanted)
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One pair of processes for all tests of a module that leave them as they are."""
    running = Running(tmp_path_factory.mktemp("router"), ("--maximum-body", "100000"))
    running.write(films_v1=50, films_v2=50)
    running.start_upstream()
    running.start_router()
    yield running
    running.stop_router()
    running.stop_upstream()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A pair of a test's own; the router is not started yet."""
    running = Running(tmp_path)
    running.start_upstream()
    yield running
    if running.router is not None:
        running.stop_router()
    running.stop_upstream()
