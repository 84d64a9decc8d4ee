"""Real predictor processes for the tests, and the small bundles that they serve."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.models.families import save_model
from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue
from slipway.models.matrix_factorization.model import MatrixFactorization
from slipway.models.seen import SeenItems
from slipway.models.standardisation import Standardisation

USERS, ITEMS, FACTORS = 200, 500, 16
VIEW = ViewSchema(
    name="user_activity",
    entity="user",
    features=(FeatureSchema(name="events_7d"), FeatureSchema(name="events_30d")),
)


def make_bundle(directory: Path, views: tuple[ViewSchema, ...] = ()) -> Path:
    random = np.random.default_rng(11)
    user_rows = np.repeat(np.arange(USERS), 10)
    item_rows = random.integers(0, ITEMS, len(user_rows))
    catalogue = Catalogue(
        users=IdIndex.from_strings(str(user) for user in range(USERS)),
        items=IdIndex.from_strings(f"film-{item}" for item in range(ITEMS)),
        seen=SeenItems.from_pairs(user_rows, item_rows, n_users=USERS),
        popularity=np.bincount(item_rows, minlength=ITEMS) / USERS,
        interactions=len(user_rows),
    )
    features = {view.name: random.normal(size=(USERS, len(view.numeric))).astype(np.float32) for view in views}
    standardisation = Standardisation.fit(views, features)
    weights = 1 + len(standardisation) if views else 0
    model = MatrixFactorization(
        catalogue,
        user_offsets=random.normal(size=(USERS, FACTORS)).astype(np.float32),
        item_factors=random.normal(size=(ITEMS, FACTORS)).astype(np.float32),
        feature_weights=random.normal(size=(weights, FACTORS)).astype(np.float32),
        standardisation=standardisation,
        parameters={},
    )
    directory.mkdir(parents=True)
    save_model(model, directory, name="films")
    return directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A predictor process and how to reach it."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path
    seconds_to_first_answer: float

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        connection = self.connection()
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def predict(self, *instances: dict[str, Any]) -> tuple[int, Any]:
        return self.post("/v1/models/films:predict", {"instances": list(instances)})

    def get(self, path: str) -> tuple[int, Any]:
        connection = self.connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


@contextmanager
def running_predictor(
    bundle: Path, workspace: Path, *arguments: str, cwd: Path | None = None, one_port: bool = False
) -> Iterator[Running]:
    ports = [free_port() for _ in range(3)]
    if one_port:
        ports[2] = ports[0]
    log = workspace / f"predictor-{ports[0]}.log"
    command = [
        *(sys.executable, "-m", "slipway.serving.predictor", "--bundle", str(bundle), "--model", "films"),
        *("--version", "2", "--http-port", str(ports[0]), "--grpc-port", str(ports[1])),
        *("--metrics-port", str(ports[2]), "--key-file", str(workspace / "key"), "--drain-seconds", "0.05"),
        *arguments,
    ]
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True, cwd=cwd)
    running = Running(process, *ports, log, 0.0)
    try:
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - started < 30, log.read_text()
            try:
                status, _ = running.predict({"user": "1"})
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            running.seconds_to_first_answer = time.monotonic() - started
            assert status in (200, 500), log.read_text()
            break
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "films")


@pytest.fixture(scope="session")
def bundle_with_view(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "films", (VIEW,))


@pytest.fixture(scope="session")
def view() -> ViewSchema:
    return VIEW


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Returns the context manager that runs a predictor."""
    workspace = tmp_path_factory.mktemp("predictors")

    def begin(bundle: Path, *arguments: str, cwd: Path | None = None, one_port: bool = False) -> Any:
        return running_predictor(bundle, workspace, *arguments, cwd=cwd, one_port=one_port)

    return begin


@pytest.fixture(scope="session")
def port() -> Callable[[], int]:
    return free_port


@pytest.fixture(scope="session")
def predictor(start: Callable[..., Any], bundle: Path) -> Iterator[Running]:
    """One predictor for all tests that only ask."""
    with start(bundle, "--maximum-body", "65536", "--maximum-instances", "64") as running:
        yield running
