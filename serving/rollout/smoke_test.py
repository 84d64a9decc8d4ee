"""What a version is asked before it gets traffic, on every plane."""

from __future__ import annotations

import httpx

from slipway.contracts.metrics import SMOKE_TEST_HEADER

SMOKE_TEST_USERS = ("slipway-smoke-test", "1")
"""Any texts do: an unknown user gets the fallback's answer, which must be well formed too."""


def problem_of(client: httpx.Client, url: str, model: str, version: str) -> str | None:
    """Asks one process or pod and returns what is wrong with its answer, or None.

    Args:
        client: Sends the request.
        url: Base address of the process.
        model: Name under which it answers.
        version: Version as which it must answer.
    """
    body = {"instances": [{"user": user} for user in SMOKE_TEST_USERS]}
    try:
        response = client.post(f"{url}/v1/models/{model}:predict", json=body, headers={SMOKE_TEST_HEADER: "1"})
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        return f"no usable answer ({type(error).__name__})"
    if response.status_code != 200:
        return f"answered {response.status_code}"
    if str(answer.get("model_version")) != version:
        return f"answered as version {answer.get('model_version')}, not {version}"
    predictions = answer.get("predictions", [])
    if len(predictions) != len(SMOKE_TEST_USERS) or not all(entry.get("items") for entry in predictions):
        return "an answer held no items"
    return None
