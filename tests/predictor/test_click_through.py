"""A prediction and its click meet in the collector, across the real processes."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def metrics_of(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_answers_and_clicks_become_joined_counters(start: Any, bundle: Path, port: Any, tmp_path: Path) -> None:
    feedback_port, metrics_port = port(), port()
    key = tmp_path / "key"
    command = [
        *(sys.executable, "-m", "slipway.serving.capture", "--port", str(feedback_port)),
        *("--metrics-port", str(metrics_port), "--key-file", str(key), "--wait", "1.5", "--expiry", "60"),
        *("--directory", str(tmp_path / "captured")),
    ]
    collector = subprocess.Popen(command)
    try:
        arguments = ("--collector", f"http://127.0.0.1:{feedback_port}", "--key-file", str(key))
        with start(bundle, *arguments) as running:
            outcomes = []
            for user in range(20):
                _, answer = running.predict({"user": str(user), "k": 5})
                if user < 5:
                    item = answer["predictions"][0]["items"][2]
                    connection = http.client.HTTPConnection("127.0.0.1", feedback_port, timeout=10)
                    click = {"request_id": answer["request_id"], "item": item, "type": "click"}
                    connection.request("POST", "/v1/feedback", json.dumps(click))
                    outcomes.append(json.loads(connection.getresponse().read())["outcome"])
                    connection.close()
            joined = 'slipway_joined_requests_total{model="films",version="2"}'
            deadline = time.monotonic() + 10
            while metrics_of(metrics_port).get(joined, 0) < 21 and time.monotonic() < deadline:
                time.sleep(0.05)
            metrics = metrics_of(metrics_port)
            assert set(outcomes) <= {"accepted", "held"}  # a click may overtake the event of its prediction
            assert metrics[joined] == 21  # the fixture's own request is one of them
            assert metrics['slipway_joined_clicked_requests_total{model="films",version="2"}'] == 5
            assert metrics['slipway_feedback_total{model="films",outcome="accepted"}'] == 5
            assert running.metrics()['slipway_events_dropped_total{model="films",version="2"}'] == 0
    finally:
        collector.terminate()
        assert collector.wait(10) == 0
