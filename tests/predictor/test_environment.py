"""A predictor as a pod runs it: settings from the environment, metrics on the port of the model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.contracts.errors import EnvironmentProblemError
from slipway.contracts.events import KEY_VARIABLE, RequestSigner, TokenOutcome, signing_key

pytestmark = pytest.mark.integration

KEY = "5a" * 32


@pytest.fixture(scope="module")
def pod(start: Any, bundle: Path) -> Iterator[Any]:
    """A predictor with one port and the key of its environment."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:  # of this process alone: others start without it
            environment.setenv(KEY_VARIABLE, KEY)
            environment.setenv("SLIPWAY_REDIS_URL", "")  # what an optional key of a ConfigMap may leave
            environment.setenv("SLIPWAY_COLLECTOR_URL", "")
            running = stack.enter_context(start(bundle, one_port=True))
        yield running


def test_metrics_share_the_port_and_count_what_it_answers(pod: Any) -> None:
    series = 'slipway_requests_total{code="200",model="films",version="2"}'
    before = pod.metrics()[series]
    assert pod.predict({"user": "1"})[0] == 200
    assert pod.metrics()[series] == before + 1


@pytest.mark.parametrize("header", ["X-Forwarded-For", "x-forwarded-host", "Forwarded"])
def test_metrics_are_not_shown_to_who_comes_through_a_gateway(pod: Any, header: str) -> None:
    connection = pod.connection()
    connection.request("GET", "/metrics", headers={header: "203.0.113.7"})
    answer = connection.getresponse()
    assert (answer.status, b"slipway_requests_total" in answer.read()) == (404, False)
    connection.close()


def test_metrics_on_a_port_of_their_own_are_not_on_the_port_of_the_model(predictor: Any) -> None:
    assert predictor.get("/metrics")[0] == 404


def test_request_ids_are_signed_with_the_key_of_the_environment(pod: Any, tmp_path: Path) -> None:
    _, answer = pod.predict({"user": "1"})
    signer = RequestSigner(bytes.fromhex(KEY))
    outcome, token = signer.verify(answer["request_id"], now=time.time(), expiry=60)
    assert outcome is TokenOutcome.OK
    assert (token.model, token.version) == ("films", "2")


def test_a_key_of_the_environment_that_is_none_is_refused_by_the_variables_name(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblemError, match=KEY_VARIABLE):
        signing_key(tmp_path / "key", {KEY_VARIABLE: "secret"})
    assert not (tmp_path / "key").exists()
    assert signing_key(tmp_path / "key", {KEY_VARIABLE: ""}) == signing_key(tmp_path / "key", {})
