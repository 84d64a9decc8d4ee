"""The predictor process: KServe's model server on its own ports, and an end that loses no request."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from slipway.contracts.errors import UsageError
from slipway.contracts.events import RequestSigner, signing_key
from slipway.serving.exposition import serve_metrics
from slipway.serving.listening import UnsignalledServer, bind
from slipway.serving.predictor.dataplane import StrictDataPlane
from slipway.serving.predictor.events import EventSender
from slipway.serving.predictor.gate import Gate
from slipway.serving.predictor.grpc_server import StrictGRPCServer
from slipway.serving.predictor.kserve_sdk import (
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ModelServer,
    RESTServer,
    ServerNotReady,
    kserve_app,
    logger,
)
from slipway.serving.predictor.metrics import PredictorMetrics
from slipway.serving.predictor.model import BundleModel
from slipway.serving.predictor.settings import Settings

_QUIET_SECONDS = 0.1


class StrictRESTServer(RESTServer):  # type: ignore[misc]
    """KServe's REST server behind the gate, on a socket that is already bound."""

    def __init__(self, data_plane: StrictDataPlane, gate: Gate, listener: socket.socket, settings: Settings) -> None:
        self.dataplane = data_plane
        self.model_repository_extension = None
        self.access_log_format = None
        self.config = uvicorn.Config(
            gate,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="httptools",
            timeout_keep_alive=65,
            timeout_graceful_shutdown=int(settings.grace_seconds) or 1,
            server_header=False,
            date_header=False,
        )
        self._listener = listener
        self._server = UnsignalledServer(self.config)

    async def start(self) -> None:
        """Serves until `stop`."""
        self.create_application()
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Stops listening, lets what is in flight end, and makes `start` return."""
        self._server.should_exit = True

    def _add_middlewares(self, app: FastAPI) -> None:
        """Adds none: counting and limits are the gate's."""

    def _add_exception_handlers(self, app: FastAPI) -> None:
        for kind, status in ((InvalidInput, 400), (ModelNotFound, 404), (ModelNotReady, 503), (ServerNotReady, 503)):
            app.add_exception_handler(kind, _plain_error(status))
        app.add_exception_handler(Exception, _failure)
        app.add_exception_handler(RequestValidationError, _invalid_request)
        app.add_exception_handler(HTTPException, _http_error)


def _plain_error(status: int) -> Any:
    async def handle(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=status)

    return handle


async def _failure(_request: Request, error: Exception) -> JSONResponse:
    del error  # the gate logs it
    return JSONResponse({"error": "the server failed to answer; its log says why"}, status_code=500)


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem: dict[str, Any] = next(iter(error.errors()), {})
    where = ".".join(str(part) for part in problem.get("loc", ())[:6])[:128]
    return JSONResponse({"error": f"{where or 'body'}: {problem.get('msg', 'malformed')}"}, status_code=400)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


class PredictorServer(ModelServer):  # type: ignore[misc]
    """One model, served over REST and gRPC until a signal; then drained."""

    def __init__(self, settings: Settings, metrics: PredictorMetrics, listener: socket.socket) -> None:
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            enable_grpc=settings.grpc_port > 0,
            enable_latency_logging=False,
        )
        self._settings = settings
        self.dataplane = StrictDataPlane(self.registered_models, settings.limits)
        self._gate = Gate(
            kserve_app,
            self.dataplane,
            model=settings.model,
            version=settings.version,
            limits=settings.limits,
            metrics=metrics,
            shows_metrics=settings.metrics_port == settings.http_port,
        )
        self._rest = StrictRESTServer(self.dataplane, self._gate, listener, settings)
        self._grpc = StrictGRPCServer(self.dataplane, settings, metrics) if self.enable_grpc else None

    def start(self, models: list[Any]) -> None:
        """Serves until SIGTERM or SIGINT; returns when every accepted request has its answer."""
        self._register_and_check_atleast_one_model_is_ready(models)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        told_to_stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told_to_stop.set)
        if self._grpc is not None:
            await self._grpc.start()
        rest = asyncio.create_task(self._rest.start())
        stop = asyncio.create_task(told_to_stop.wait())
        await asyncio.wait((rest, stop), return_when=asyncio.FIRST_COMPLETED)
        if not rest.done():
            await self._drain()
        await rest

    async def _drain(self) -> None:
        """Not ready first, so that the gateway sends nothing new; answers close their connections; then stops.

        Listening ends when the last request is _QUIET_SECONDS old, at the latest after five times the drain time:
        closing a port cuts off who has connected to it and was not yet accepted.
        """
        settings = self._settings
        self.dataplane.draining = self._gate.draining = True
        await asyncio.sleep(settings.drain_seconds)
        latest = time.monotonic() + 4 * settings.drain_seconds
        while time.monotonic() < min(latest, self._gate.last_request + _QUIET_SECONDS):
            await asyncio.sleep(0.01)
        if self._grpc is not None:
            await self._grpc.stop()
        self._rest.stop()
        deadline = time.monotonic() + settings.grace_seconds
        while self._gate.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.01)


def run(settings: Settings) -> None:
    """Runs a predictor in this process until it is told to stop.

    Raises:
        BundleError: The bundle must not be served.
        EnvironmentProblemError: A port is taken or the key cannot be used.
        UsageError: The project's own predictor cannot be found.
    """
    model_class = find_predictor(settings.predictor) if settings.predictor else BundleModel
    signer = RequestSigner(signing_key(settings.key_file))
    metrics = PredictorMetrics(settings.model, settings.version)
    listener = bind(settings.host, settings.http_port)
    sender = None
    if settings.collector:
        sender = EventSender(
            settings.collector,
            model=settings.model,
            version=settings.version,
            replica=settings.replica,
            signer=signer,
            dropped=metrics.events_dropped.inc,
        )
    model = model_class(settings, metrics=metrics, signer=signer, sender=sender)
    model.load()
    if settings.metrics_port != settings.http_port:
        serve_metrics(metrics.registry, host=settings.host, port=settings.metrics_port)
    gc.collect()
    gc.freeze()  # what is loaded stays; later collections need not walk through it
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logger.info("%s version %s answers on %s:%s", settings.model, settings.version, settings.host, settings.http_port)
    try:
        PredictorServer(settings, metrics, listener).start([model])
    finally:
        model.stop()
        if sender is not None:
            sender.close()
    logger.info("Stopped; every accepted request was answered")


def find_predictor(reference: str) -> type[BundleModel]:
    """Returns the class that `module:Class` names, looking in the working directory first.

    Raises:
        UsageError: There is none, or it is no BundleModel.
    """
    module_name, _, class_name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    remedy = "Name it as module:Class, in a file of the project's directory."
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"no such predictor ({error})", where=reference, remedy=remedy) from error
    if not (isinstance(found, type) and issubclass(found, BundleModel)):
        raise UsageError("it is not a subclass of BundleModel", where=reference, remedy=remedy)
    return found
