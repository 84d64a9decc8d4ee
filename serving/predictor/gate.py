"""The outermost ASGI layer: what is open, how large, of which type; counting; and a calm end of every failure."""

from __future__ import annotations

import asyncio
import re
import time

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slipway.serving.asgi import (
    Application,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    read_body,
    replay,
    send_error,
    send_json,
)
from slipway.serving.predictor.dataplane import StrictDataPlane, decode_json
from slipway.serving.predictor.kserve_sdk import InvalidInput, ModelNotFound, ModelNotReady, logger
from slipway.serving.predictor.metrics import PredictorMetrics
from slipway.serving.predictor.settings import Limits

_JSON_TYPES = frozenset({"application/json", "application/ld+json", ""})
_BINARY_LENGTH = b"inference-header-content-length"
_CLOUD_EVENT_PREFIX = b"ce-"
_RETRY_AFTER = 1
"""Seconds after which a request that was refused for overload may come again."""
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host"})


class Gate:
    """Wraps KServe's application.

    Only prediction, health and metadata pass; loading and unloading of models, explanation, documentation and metrics
    are not on this port. Metrics are where they have no port of their own: for who asks the process itself, not for who
    comes through a gateway. Bodies are limited before anything parses them. Every prediction request is counted once,
    with the status that its client saw.
    """

    def __init__(
        self,
        application: Application,
        data_plane: StrictDataPlane,
        *,
        model: str,
        version: str,
        limits: Limits,
        metrics: PredictorMetrics,
        shows_metrics: bool = False,
    ) -> None:
        self._application = application
        self._data_plane = data_plane
        self._limits = limits
        self._metrics = metrics
        self._shows_metrics = shows_metrics
        self._model = model
        self._version_path = f"/v2/models/{model}/versions/{version}"
        self._predict = {f"/v1/models/{model}:predict": "v1", f"/v2/models/{model}/infer": "v2"}
        self._readable = {
            "/",
            "/v1/models",
            f"/v1/models/{model}",
            "/v2",
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models",
            f"/v2/models/{model}",
            f"/v2/models/{model}/ready",
        }
        self._other_model = re.compile(r"/v1/models/[^/]*:predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")
        self.draining = False
        self.in_flight = 0
        self.last_request = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, or hands on what is no HTTP request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        path: str = scope["path"]
        if path.startswith(self._version_path):
            path = f"/v2/models/{self._model}{path[len(self._version_path) :]}"
            scope["path"], scope["raw_path"] = path, path.encode()
        protocol = self._predict.get(path)
        if protocol is not None or self._other_model.fullmatch(path):
            await self._answer_counted(scope, receive, send, protocol)
        else:
            await self._answer(scope, receive, send, None)

    async def _answer_counted(self, scope: Scope, receive: Receive, send: Send, protocol: str | None) -> None:
        started = time.perf_counter()
        self.last_request = time.monotonic()
        self.in_flight += 1
        self._metrics.in_flight.set(self.in_flight)
        status = 500
        try:
            status = await self._answer(scope, receive, send, protocol or "none")
        finally:
            self.in_flight -= 1
            self._metrics.in_flight.set(self.in_flight)
            self._metrics.answered(status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, protocol: str | None) -> int:
        """Returns the status that was sent."""
        started = 0

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message["status"]
                if self.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            self._check_route(scope, protocol)
            if protocol is not None and self.in_flight > self._limits.in_flight:
                # Refused before anything is read: an answer that comes too late helps nobody, and costs as much.
                raise Refusal(
                    429, f"{self._limits.in_flight} requests are being answered; ask again", retry_after=_RETRY_AFTER
                )
            if protocol == "v1":
                await self._predict_v1(scope, receive, watched)
            elif self._is_scrape(scope):
                await self._show_metrics(watched)
            else:
                if protocol is not None:
                    receive = replay(await self._checked_body(scope, receive, protocol), receive)
                await self._application(scope, receive, watched)
        except Refusal as refusal:
            await send_error(
                watched, refusal.status, refusal.reason, close=refusal.close, retry_after=refusal.retry_after
            )
        except (InvalidInput, ModelNotFound, ModelNotReady) as error:
            await send_error(watched, 400 if isinstance(error, InvalidInput) else 503, str(error))
        except Exception:  # noqa: BLE001 - whatever it was, the client gets an answer and the connection stays usable
            if started:
                logger.exception("A request failed after its answer had begun")
            else:
                logger.exception("A request failed")
                await send_error(watched, 500, "the server failed to answer; its log says why")
        return started

    async def _predict_v1(self, scope: Scope, receive: Receive, send: Send) -> None:
        """KServe's V1 endpoint without the router around it, which takes longer than the prediction itself."""
        body = await self._checked_body(scope, receive, "v1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request, attributes = self._data_plane.decode(body, headers, model_name=self._model)
        response, _ = await self._data_plane.infer(self._model, request, headers)
        content, _ = self._data_plane.encode(self._model, response, headers, attributes)
        await send_json(send, 200, orjson.dumps(content))

    def _is_scrape(self, scope: Scope) -> bool:
        """Says whether metrics are asked for and may be shown: a gateway notes for whom it asks."""
        if not self._shows_metrics or scope["path"] != "/metrics":
            return False
        return not any(name in _FORWARDED for name, _ in scope["headers"])

    async def _show_metrics(self, send: Send) -> None:
        """Answers a scrape; the text is made in a thread, so that predictions need not wait for it."""
        text = await asyncio.to_thread(generate_latest, self._metrics.registry)
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _check_route(self, scope: Scope, protocol: str | None) -> None:
        method, path = scope["method"], scope["path"]
        if protocol == "none":
            raise Refusal(404, f"this server answers for the model {self._model!r} only, and for its own version")
        if protocol is not None:
            if method != "POST":
                raise Refusal(405, f"send a POST to {path}, not a {method}")
        elif path not in self._readable and not self._is_scrape(scope):
            raise Refusal(404, "nothing is served at this path; models are neither loaded, unloaded nor explained here")
        elif method not in ("GET", "HEAD"):
            raise Refusal(405, f"send a GET to {path}, not a {method}")

    async def _checked_body(self, scope: Scope, receive: Receive, protocol: str) -> bytes:
        """Reads the body and leaves the headers as KServe's parsers expect them."""
        headers = dict(scope["headers"])
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        kind = content_type.partition(";")[0].strip().lower()
        body = await read_body(scope, receive, limit=self._limits.body_bytes, seconds=self._limits.body_seconds)
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise Refusal(415, "compressed bodies are not accepted")
        binary = protocol == "v2" and (kind == "application/octet-stream" or _BINARY_LENGTH in headers)
        if not binary and kind not in _JSON_TYPES:
            raise Refusal(415, f"send the body as application/json, not {kind[:64]!r}")
        if binary:
            length = headers.get(_BINARY_LENGTH, b"")
            if not length.isdigit() or len(length) > 18 or int(length) > len(body):
                raise Refusal(
                    400, "Inference-Header-Content-Length must be the number of JSON bytes that the body begins with"
                )
            decode_json(body[: int(length)])
        elif protocol == "v2":
            decode_json(body)  # stricter than the parser behind: no NaN, no half surrogate, no depth without end
        normal = b"application/octet-stream" if binary else b"application/json"
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if name not in (b"content-type", b"content-length") and not name.startswith(_CLOUD_EVENT_PREFIX)
        ] + [(b"content-type", normal), (b"content-length", str(len(body)).encode())]
        return body
