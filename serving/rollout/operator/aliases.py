"""Where the alias `champion` lives: in an MLflow registry, or in the Rollout's own status."""

from __future__ import annotations

from typing import Protocol

import httpx

from slipway.contracts.errors import ServiceError

_PREFIX = "/api/2.0/mlflow/registered-models"


class Aliases(Protocol):
    """Names and moves aliases of registered models."""

    def version(self, model: str, alias: str) -> str | None:
        """Returns the version that an alias names, or None where it names none.

        Raises:
            ServiceError: That cannot be told.
        """

    def move(self, model: str, alias: str, version: str) -> None:
        """Has an alias name a version.

        Raises:
            ServiceError: The registry does not answer or refuses.
        """


class MlflowAliases:
    """The aliases of an MLflow server, by its REST API (MLflow 2.3 and later); MLflow itself is not needed.

    Args:
        url: Base address of the server.
        timeout: Seconds that a call may take.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=timeout)

    def version(self, model: str, alias: str) -> str | None:
        """Returns the version that an alias names, or None where it names none."""
        answer = self._call("GET", params={"name": model, "alias": alias})
        if answer.status_code in (400, 404):
            return None
        return str(self._checked(answer).json()["model_version"]["version"])

    def move(self, model: str, alias: str, version: str) -> None:
        """Has an alias name a version."""
        self._checked(self._call("POST", json={"name": model, "alias": alias, "version": version}))

    def _call(self, method: str, **options: object) -> httpx.Response:
        try:
            return self._client.request(method, f"{self._url}{_PREFIX}/alias", **options)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise ServiceError(f"the registry does not answer ({type(error).__name__})", where=self._url) from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code != 200:
            raise ServiceError(f"the registry answered {answer.status_code}: {answer.text[:200]}", where=self._url)
        return answer
