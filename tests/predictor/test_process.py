"""The predictor as a process: its start, its end, what it refuses to start with, and a project's own predictor."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

OWN_PREDICTOR = """
import asyncio, json, pathlib, sys
from slipway.serving.predictor.kserve_sdk import InferenceError
from slipway.serving.predictor.model import BundleModel

class Faulty(BundleModel):
    async def predict(self, payload, headers=None):
        pathlib.Path("modules.json").write_text(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
        user = payload.queries[0].user
        if user == "fail":
            raise InferenceError("asked to fail")
        if user == "bug":
            raise ZeroDivisionError("a mistake of the project's own")
        answer = await super().predict(payload, headers)
        if user == "slow":
            await asyncio.sleep(0.3)
        answer.predictions[0].items.reverse()
        return answer
"""


def test_sigterm_loses_no_request_and_exits_0(start: Any, bundle: Path) -> None:
    lost: list[str] = []
    answered = [0] * 8
    turned_away: set[int] = set()

    def client(number: int) -> None:
        body = json.dumps({"instances": [{"user": str(number)}]}).encode()
        head = f"POST /v1/models/films:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        while True:
            with socket.create_connection(("127.0.0.1", running.http_port), timeout=5) as connection:
                open_for_more = True
                while open_for_more:
                    connection.sendall(head + body)
                    reply = b""
                    while b"\r\n\r\n" not in reply or not reply.endswith(b"}"):
                        part = connection.recv(65536)
                        if not part:
                            lost.append(f"cut after {len(reply)} bytes")
                            return
                        reply += part
                    if not reply.startswith(b"HTTP/1.1 200"):
                        lost.append(reply[:40].decode())
                    answered[number] += 1
                    open_for_more = b"connection: close" not in reply.lower()
            if running.get("/v2/health/ready")[0] == 503:  # as a gateway does, it turns to another predictor
                turned_away.add(number)
                return

    with start(bundle, "--drain-seconds", "0.5") as running:
        clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in clients:
            thread.start()
        deadline = time.monotonic() + 10
        while min(answered) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        for thread in clients:
            thread.join(10)
        assert running.process.wait(10) == 0
    assert not lost
    assert len(turned_away) == 8
    assert min(answered) >= 20


def test_a_request_in_flight_is_finished_after_the_port_is_closed(start: Any, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "own_predictor.py").write_text(OWN_PREDICTOR)
    arguments = ("--predictor", "own_predictor:Faulty", "--drain-seconds", "0")
    with start(bundle, *arguments, cwd=tmp_path) as running:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(running.predict({"user": "slow"})))
        in_flight = 'slipway_requests_in_flight{model="films",version="2"}'
        thread.start()
        deadline = time.monotonic() + 5
        while running.metrics()[in_flight] == 0 and time.monotonic() < deadline:
            pass
        running.process.send_signal(signal.SIGTERM)
        thread.join(10)
        assert running.process.wait(10) == 0
    assert answers[0][0] == 200


def test_a_projects_own_predictor_wraps_answers_and_its_faults_are_500s(
    start: Any, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "own_predictor.py").write_text(OWN_PREDICTOR)
    with start(bundle, "--predictor", "own_predictor:Faulty", cwd=tmp_path) as running:
        scores = running.predict({"user": "1"})[1]["predictions"][0]["scores"]
        assert scores == sorted(scores, reverse=True)
        connection = running.connection()
        for user, expected in (("fail", 500), ("bug", 500), ("1", 200)):  # one connection: a fault does not cut it
            connection.request("POST", "/v1/models/films:predict", json.dumps({"instances": [{"user": user}]}))
            response = connection.getresponse()
            answer = response.read().decode()
            assert response.status == expected
            assert "ZeroDivision" not in answer
        assert running.metrics()['slipway_requests_total{code="500",model="films",version="2"}'] == 2
        assert "a mistake of the project's own" in running.log.read_text()
    modules = set(json.loads((tmp_path / "modules.json").read_text()))
    assert not modules & {"torch", "feast", "mlflow", "pandas", "kubernetes", "pyarrow", "scipy"}


def test_what_must_not_be_served_is_refused_with_a_remedy(bundle: Path, tmp_path: Path, port: Any) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(bundle, altered)
    content = bytearray((altered / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(content)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        attempts = [
            (altered, ("--http-port", str(port())), 1, "weights.safetensors was altered"),
            (bundle, ("--http-port", str(taken.getsockname()[1])), 1, "cannot be opened"),
            (bundle, ("--http-port", str(port()), "--predictor", "nowhere:Class"), 2, "no such predictor"),
        ]
        key = str(tmp_path / "key")
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "slipway.serving.predictor", "--bundle", str(directory)),
                    *("--model", "films", "--version", "2", "--key-file", key, "--grpc-port", "0"),
                    *("--metrics-port", str(port()), *arguments),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
            )
            for directory, arguments, _, _ in attempts
        ]
        for process, (_, _, code, message) in zip(processes, attempts, strict=True):
            text, _ = process.communicate(timeout=60)
            assert process.returncode == code, text
            assert message in text
            assert "Traceback" not in text
