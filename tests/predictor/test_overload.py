"""More requests than a process can answer: some are told to come again, and the others do not wait longer for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from slipway.serving.predictor.kserve_sdk import grpc_predict_v2_pb2 as pb
from slipway.serving.predictor.kserve_sdk import grpc_predict_v2_pb2_grpc as pb_grpc

pytestmark = pytest.mark.integration

CLIENTS, SECONDS = 24, 3.0
# A request for so many users keeps a process busy for some hundredths of a second.
BODY = json.dumps({"instances": [{"user": str(user % 200)} for user in range(512)]})


class Load:
    """Clients that ask again as soon as they have an answer, or, when told to come again, a little later."""

    def __init__(self, running: Any) -> None:
        self.seconds: list[float] = []
        self.refused: list[tuple[str | None, dict[str, Any]]] = []
        self.codes: set[int] = set()
        self._running = running
        self._lock = threading.Lock()
        end = time.monotonic() + SECONDS
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(self._client, [end] * CLIENTS))

    def _client(self, end: float) -> None:
        connection = self._running.connection()
        while time.monotonic() < end:
            began = time.monotonic()
            connection.request("POST", "/v1/models/films:predict", BODY, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            seconds = time.monotonic() - began
            with self._lock:
                self.codes.add(response.status)
                if response.status == 200:
                    self.seconds.append(seconds)
                else:
                    self.refused.append((response.getheader("retry-after"), json.loads(content)))
            if response.status != 200:
                time.sleep(0.1)
        connection.close()

    @property
    def p95(self) -> float:
        return float(np.quantile(self.seconds, 0.95))


def test_under_overload_what_is_accepted_is_answered_soon_and_the_rest_is_told_to_come_again(
    start: Callable[..., Any], bundle: Path
) -> None:
    with start(bundle, "--maximum-in-flight", "1000") as running:
        queueing = Load(running)
    with start(bundle, "--maximum-in-flight", "3") as running:
        limited = Load(running)
        counted = running.metrics()
        assert running.predict({"user": "1"})[0] == 200
        assert running.get("/v2/health/ready")[0] == 200
    assert (queueing.codes, limited.codes) == ({200}, {200, 429})
    assert len(limited.seconds) > 20
    # Were there no limit, each of 24 requests would wait for 23 others.
    assert limited.p95 < 0.5 * queueing.p95, (limited.p95, queueing.p95)
    assert {(after, content["error"]) for after, content in limited.refused} == {
        ("1", "3 requests are being answered; ask again")
    }
    labels = 'model="films",version="2"'
    assert counted[f'slipway_requests_total{{code="429",{labels}}}'] == len(limited.refused)
    assert counted[f"slipway_requests_in_flight{{{labels}}}"] == 0


def test_calls_over_grpc_beyond_the_limit_are_refused_as_exhausted(start: Callable[..., Any], bundle: Path) -> None:
    users = [str(user % 200).encode() for user in range(512)]
    tensor = {"name": "user", "shape": [len(users)], "datatype": "BYTES", "contents": {"bytes_contents": users}}
    request = pb.ModelInferRequest(model_name="films", inputs=[tensor])

    def call(stub: Any) -> str:
        try:
            stub.ModelInfer(request, timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return "OK"

    with start(bundle, "--maximum-in-flight", "1") as running, ThreadPoolExecutor(8) as clients:
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            outcomes = set(clients.map(call, [stub] * 40))
            assert outcomes == {"OK", "RESOURCE_EXHAUSTED"}
            assert call(stub) == "OK"
