"""JSON over HTTPS to a Git host: one place that knows the token, what is asked again, and what each refusal means."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from slipway.contracts.errors import ServiceError

TIMEOUT_SECONDS = 20.0
BACKOFF_SECONDS = (0.5, 2.0)


class RefusedRequestError(ServiceError):
    """The host answered, and said no. `status` is the HTTP status, `said` the host's words."""

    def __init__(self, what: str, *, status: int, said: str, where: str, remedy: str) -> None:
        self.status = status
        self.said = said
        super().__init__(what, where=where, remedy=remedy)


class NoAnswerError(ServiceError):
    """The host did not answer, or answered that it cannot; what was asked may have been done all the same."""


class JsonApi:
    """A REST API of a host.

    Args:
        name: The host's name in messages.
        api: Address of the API, without a slash at its end.
        headers: Of every request; they hold the token and are never printed.
    """

    def __init__(self, name: str, api: str, headers: Mapping[str, str]) -> None:
        self.name = name
        self.api = api
        # One client, as reading the certificates of the machine for each request costs more than the request.
        self._client = httpx.Client(headers=dict(headers), timeout=TIMEOUT_SECONDS)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Returns what the host answers; asks again, twice, where it does not.

        Raises:
            RefusedRequestError: It answers with 4xx.
            NoAnswerError: It does not answer, or with 5xx.
        """
        for pause in (*BACKOFF_SECONDS, None):
            try:
                return self._send("GET", path, query=query)
            except NoAnswerError:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Sends a body once and returns what the host answers. Raises as `get` does."""
        return self._send("POST", path, body=body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Changes what is at a path, once, and returns what the host answers. Raises as `get` does."""
        return self._send("PATCH", path, body=body)

    def _send(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        where = f"{method} {self.api}{path}"
        try:
            # Redirects are not followed: the token is for this host.
            answer = self._client.request(
                method,
                f"{self.api}{path}",
                params=dict(query) if query is not None else None,
                json=dict(body) if body is not None else None,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswerError(
                f"{self.name} does not answer ({type(error).__name__})", where=where, remedy="Run the command again."
            ) from None  # the request, which holds the token, stays out of tracebacks
        if answer.status_code >= 500:
            raise NoAnswerError(
                f"{self.name} answers {answer.status_code}", where=where, remedy="Run the command again later."
            )
        if not answer.is_success:
            raise self._refusal(answer, where)
        try:
            return answer.json()
        except ValueError:
            raise NoAnswerError(
                f"{self.name} answers no JSON", where=where, remedy="Check promotion.api in slipway.yaml."
            ) from None

    def _refusal(self, answer: httpx.Response, where: str) -> RefusedRequestError:
        status = answer.status_code
        said = _words(answer)
        if status == 401:
            what, remedy = "refuses the token", "Make a new token and set SLIPWAY_GIT_TOKEN to it."
        elif status == 429 or answer.headers.get("x-ratelimit-remaining") == "0" or "rate limit" in said.lower():
            what, remedy = "wants fewer requests", f"Run the command again {_after(answer)}."
        elif status == 403:
            what = "does not let this token do that"
            remedy = "Give it the right to read and write pull requests (GitHub), or the scope `api` (GitLab)."
        elif status == 404:
            what = "knows no such repository, or the token may not see it"
            remedy = "Check promotion.repository, and the repositories that the token is for."
        elif 300 <= status < 400:
            what, remedy = "has moved the repository", "Change the remote's address to the new one."
        else:
            what, remedy = "does not take the request", "Read what it says; the page of the repository may say more."
        return RefusedRequestError(
            f"{self.name} {what} ({status}{f': {said}' if said else ''})",
            status=status,
            said=said,
            where=where,
            remedy=remedy,
        )


def _words(answer: httpx.Response) -> str:
    """Returns what a host says of an error: GitHub in `message` and `errors`, GitLab in `message` or `error`."""
    try:
        content = answer.json()
    except ValueError:
        return ""
    if not isinstance(content, dict):
        return ""
    message = content.get("message") or content.get("error") or ""
    parts = [message if isinstance(message, str) else "; ".join(str(part) for part in _list(message))]
    for entry in _list(content.get("errors")):
        parts.append(str(entry.get("message", "")) if isinstance(entry, dict) else str(entry))
    return ". ".join(part.rstrip(".") for part in parts if part)[:500]


def _list(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [f"{key}: {entry}" for key, entry in value.items()]
    return value if isinstance(value, list) else []


def _after(answer: httpx.Response) -> str:
    if answer.headers.get("retry-after", "").isdigit():
        return f"in {answer.headers['retry-after']} s"
    reset = answer.headers.get("x-ratelimit-reset", "")
    if reset.isdigit():
        return f"after {datetime.fromtimestamp(int(reset), UTC):%H:%M} UTC"
    return "in a minute"
