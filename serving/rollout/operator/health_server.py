"""`/metrics`, `/healthz` and `/readyz` on one port."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from slipway.contracts.errors import EnvironmentProblemError


def serve_health(
    registry: CollectorRegistry, alive: Callable[[], bool], ready: Callable[[], bool], *, host: str, port: int
) -> None:
    """Answers in a daemon thread.

    Args:
        registry: Metrics.
        alive: Whether the process does its work; where not, it is to be restarted.
        ready: Whether it watches, or stands by.
        host: Address to listen on.
        port: Port.

    Raises:
        EnvironmentProblemError: The port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                case "/healthz":
                    self._answer(200 if alive() else 503, b"ok\n" if alive() else b"stuck\n")
                case "/readyz":
                    self._answer(200 if ready() else 503, b"ok\n" if ready() else b"not ready\n")
                case _:
                    self._answer(404, b"not found\n")

        def _answer(self, code: int, body: bytes, content: str = "text/plain") -> None:
            self.send_response(code)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise EnvironmentProblemError(
            f"port {port} cannot be opened ({error.strerror})",
            where=f"{host}:{port}",
            remedy="Stop what listens there, or choose another by --port.",
        ) from error
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
