"""KServe's gRPC server with closed model management, and a status with a reason for every malformed request."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from slipway.contracts.errors import EnvironmentProblemError
from slipway.serving.predictor.dataplane import StrictDataPlane
from slipway.serving.predictor.kserve_sdk import (
    GRPCServer,
    InferenceServicer,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    grpc_predict_v2_pb2_grpc,
    logger,
)
from slipway.serving.predictor.metrics import PredictorMetrics
from slipway.serving.predictor.settings import Settings

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_CLOSED = ("RepositoryModelLoad", "RepositoryModelUnload", "RepositoryIndex")
_HTTP_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class _Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    def __init__(self, code: Any, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StrictServicer(InferenceServicer):  # type: ignore[misc]
    """Checks name and version before KServe's servicer parses the tensors."""

    def __init__(self, data_plane: StrictDataPlane, settings: Settings) -> None:
        super().__init__(data_plane, None)
        self._settings = settings

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Answers a prediction."""
        if request.model_name != self._settings.model:
            raise ModelNotFound(request.model_name)
        if request.model_version and request.model_version != self._settings.version:
            raise _Refusal(grpc.StatusCode.NOT_FOUND, f"this server answers for version {self._settings.version!r}")
        return await super().ModelInfer(request, context)


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Gives every call a deserialiser that cannot fail, maps exceptions to statuses, and counts predictions."""

    def __init__(self, metrics: PredictorMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        counted = details.method == _INFER
        closed = details.method.rsplit("/", 1)[-1] in _CLOSED

        async def guarded(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            code = 200
            try:
                if closed:
                    raise _Refusal(grpc.StatusCode.UNIMPLEMENTED, "models are not loaded or unloaded on this server")
                if isinstance(request, DecodeError):
                    raise _Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the message is not of this call's type")
                return await handler.unary_unary(request, context)
            except Exception as error:  # noqa: BLE001 - every call ends with a status
                status, reason = _status(error)
                code = _HTTP_CODES.get(status, 500)
                await _abort(context, status, reason)
            finally:
                if counted:
                    self._metrics.answered(code, time.perf_counter() - started)

        return grpc.unary_unary_rpc_method_handler(
            guarded,
            request_deserializer=_tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _status(error: Exception) -> tuple[Any, str]:
    if isinstance(error, _Refusal):
        return error.code, error.reason
    if isinstance(error, InvalidInput):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, ModelNotFound):
        return grpc.StatusCode.NOT_FOUND, str(error)
    if isinstance(error, ModelNotReady):
        return grpc.StatusCode.UNAVAILABLE, str(error)
    logger.error("A gRPC call failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "the server failed to answer; its log says why"


async def _abort(context: Any, status: Any, reason: str) -> NoReturn:
    await context.abort(status, reason)
    raise AssertionError("abort raises")


def _tolerant(deserialise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def attempt(raw: bytes) -> Any:
        try:
            return deserialise(raw)
        except DecodeError as error:
            return error

    return attempt


class StrictGRPCServer(GRPCServer):  # type: ignore[misc]
    """KServe's gRPC server on one address, with one limit for messages."""

    def __init__(self, data_plane: StrictDataPlane, settings: Settings, metrics: PredictorMetrics) -> None:
        super().__init__(settings.grpc_port, data_plane, None, kwargs={}, grace_period=settings.grace_seconds)
        self._settings = settings
        self._metrics = metrics

    async def start(self, max_workers: int = 1) -> None:
        """Listens and serves until `stop`.

        Raises:
            EnvironmentProblemError: The port is taken.
        """
        del max_workers
        settings = self._settings
        self._server = grpc.aio.server(
            interceptors=(_Guard(self._metrics),),
            maximum_concurrent_rpcs=settings.limits.in_flight,
            options=[
                ("grpc.max_receive_message_length", settings.limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        servicer = StrictServicer(self._data_plane, settings)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        address = f"{settings.host}:{settings.grpc_port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise EnvironmentProblemError(
                f"port {settings.grpc_port} cannot be opened for gRPC",
                where=address,
                remedy="Stop what listens there, or choose another port.",
            ) from error
        await self._server.start()
