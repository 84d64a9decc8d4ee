"""A version that has more to do than it can: refusals reach the caller as they are, and count against the version."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("strategies_shadow")]

BODY = json.dumps({"instances": [{"user": str(user % 60)} for user in range(512)]})


def test_a_refusal_for_overload_passes_the_gateway_and_counts_for_the_version(
    shared_plane: Any, wanted: Any, bundle: Any, real_predictors: Any, counts: Any
) -> None:
    plane = shared_plane
    wanted(plane, [plane.arm("1", replicas=1, bundle=bundle(0.0))], {"films-v1": 100})
    plane.up(**real_predictors, maximum_in_flight=1)
    plane.eventually(lambda: plane.applied({"films-v1": 100}))

    def ask(_: int) -> tuple[int, str | None]:
        connection = HTTPConnection("127.0.0.1", plane.gateway_port, timeout=60)
        connection.request("POST", "/v1/models/films:predict", BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, response.getheader("retry-after")

    with ThreadPoolExecutor(12) as clients:
        answers = Counter(clients.map(ask, range(60)))
    assert set(answers) == {(200, None), (429, "1")}
    plane.eventually(lambda: counts(plane, "films-v1", "429") == answers[429, "1"])
