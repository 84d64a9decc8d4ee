"""How MLflow's client is used: quietly, and failing at once where no server listens."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Silences what MLflow, Alembic and SQLAlchemy say about their own business, and keeps MLflow from phoning home."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("mlflow", "alembic", "sqlalchemy"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # MLflow's and Alembic's own set-up raises the levels again; a disabled threshold holds.
        previous = logging.root.manager.disable
        logging.disable(max(previous, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(previous)


def check_reachable(uri: str) -> None:
    """Fails at once where nobody listens; MLflow's own HTTP client takes many seconds to say so."""
    address = urlsplit(uri)
    if address.scheme in ("http", "https") and address.hostname:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname, port), timeout=5):
            pass


def is_outage(error: Exception) -> bool:
    """Whether MLflow or its database did not answer, so that a second attempt may."""
    code = getattr(error, "error_code", None)
    text = f"{type(error).__name__}: {error}"
    if code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE") or isinstance(
        error, (ConnectionError, TimeoutError, socket.gaierror)
    ):
        return True
    return "Max retries exceeded" in text or "OperationalError" in text or "API request to" in text
