"""KServe's data plane with strict decoding: a client's mistake raises InvalidInput, whatever the mistake."""

from __future__ import annotations

import struct
from typing import Any

import orjson

from slipway.serving.predictor.kserve_sdk import DataPlane, InferRequest, InvalidInput
from slipway.serving.predictor.queries import PredictionRequest, parse_v1, parse_v2
from slipway.serving.predictor.settings import Limits

_MISTAKES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What KServe's own parsing of a V2 body raises when a field is absent, or of another type or length than it should."""

_CALLER_ID_CHARACTERS = 128


class StrictDataPlane(DataPlane):  # type: ignore[misc]
    """Decodes into PredictionRequest, knows when the server drains, and never reloads a model by itself."""

    def __init__(self, model_registry: Any, limits: Limits) -> None:
        super().__init__(model_registry)
        self._limits = limits
        self.draining = False

    async def ready(self) -> bool:
        """Says whether new requests should come here; no longer so once the process was told to stop."""
        return not self.draining

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """As `ready` for those who ask about readiness; requests themselves are answered to the last."""
        loaded: bool = await super().model_ready(model_name, True)
        return loaded and (disable_predictor_health_check or not self.draining)

    async def get_model(self, name: str) -> Any:
        """Returns a model; unlike the stock data plane, does not load one that was never ready."""
        return self.get_model_from_registry(name)

    def decode(
        self, body: Any, headers: Any, protocol_version: str = "v1", model_name: str | None = None
    ) -> tuple[PredictionRequest, dict[str, Any]]:
        """Turns a REST body into checked queries.

        Raises:
            InvalidInput: With what is wrong and where.
        """
        if protocol_version.lower() == "v2":
            return self._checked_v2(self.decode_inference_request(body, headers, model_name or "")), {}
        queries = parse_v1(decode_json(body), self._limits)
        return PredictionRequest("v1", queries, caller_id=_caller_id(headers.get("x-request-id"))), {}

    def decode_inference_request(self, body: Any, headers: Any, model_name: str) -> InferRequest:
        """Turns a V2 body, JSON or JSON and binary tensors, into KServe's request.

        Raises:
            InvalidInput: It is none.
        """
        try:
            return super().decode_inference_request(body, headers, model_name)
        except InvalidInput:
            raise
        except _MISTAKES as error:
            raise InvalidInput(f"the V2 request is malformed ({type(error).__name__}: {str(error)[:120]})") from None

    async def infer(self, model_name: str, request: Any, headers: Any = None) -> Any:
        """Answers a decoded request; those of gRPC are checked here."""
        if isinstance(request, InferRequest):
            request = self._checked_v2(request)
        return await super().infer(model_name=model_name, request=request, headers=headers)

    def encode(self, model_name: str, response: Any, headers: Any, req_attributes: Any) -> Any:
        """As KServe's, except that a request never turns its answer into a CloudEvent."""
        del headers
        return super().encode(model_name, response, {}, req_attributes)

    def _checked_v2(self, request: InferRequest) -> PredictionRequest:
        return PredictionRequest(
            "v2", parse_v2(request, self._limits), source=request, caller_id=_caller_id(request.id)
        )


def decode_json(body: bytes) -> Any:
    """Returns a decoded JSON body.

    Raises:
        InvalidInput: It is not JSON: empty, not UTF-8, NaN, nested too deeply, ...
    """
    if not body:
        raise InvalidInput("the body is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


def _caller_id(value: Any) -> str | None:
    return str(value)[:_CALLER_ID_CHARACTERS] if value else None
