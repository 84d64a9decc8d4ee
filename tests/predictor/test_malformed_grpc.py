"""No malformed gRPC request ends as INTERNAL or UNKNOWN, and nobody loads or unloads a model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from slipway.serving.predictor.kserve_sdk import grpc_predict_v2_pb2 as pb
from slipway.serving.predictor.kserve_sdk import grpc_predict_v2_pb2_grpc as pb_grpc

pytestmark = pytest.mark.integration

INFER = "/inference.GRPCInferenceService/ModelInfer"


def request(**changes: Any) -> pb.ModelInferRequest:
    tensor = {"name": "user", "shape": [1], "datatype": "BYTES", "contents": {"bytes_contents": [b"1"]}}
    raw = changes.pop("raw_input_contents", None)
    top = {key: changes.pop(key) for key in ("model_name", "model_version", "outputs", "parameters") if key in changes}
    inputs = changes.pop("inputs", [tensor | changes])
    message = pb.ModelInferRequest(**({"model_name": "films"} | top), inputs=inputs)
    if raw is not None:
        for tensor_message in message.inputs:
            tensor_message.ClearField("contents")
        message.raw_input_contents.extend(raw)
    return message


MALFORMED: dict[str, pb.ModelInferRequest] = {
    "nothing": pb.ModelInferRequest(),
    "other model": request(model_name="books"),
    "other version": request(model_version="3"),
    "no input": request(inputs=[]),
    "other input": request(name="uid"),
    "two inputs": request(inputs=[{"name": "user", "shape": [1], "datatype": "BYTES"}] * 2),
    "no datatype": request(datatype=""),
    "unknown datatype": request(datatype="STRING"),
    "floats": request(datatype="FP32", contents={"fp32_contents": [float("nan")]}),
    "no contents": request(contents={}),
    "contents of another type": request(contents={"int64_contents": [1]}),
    "shape empty": request(shape=[]),
    "shape minus one": request(shape=[-1]),
    "shape huge": request(shape=[2**62]),
    "shape and contents differ": request(shape=[2]),
    "not UTF-8": request(contents={"bytes_contents": [b"\xff"]}),
    "user empty": request(contents={"bytes_contents": [b""]}),
    "raw cut": request(raw_input_contents=[b"\x09\0\0\0x"]),
    "raw of three bytes": request(datatype="INT64", raw_input_contents=[b"\0\0\0"]),
    "raw huge length": request(raw_input_contents=[struct.pack("<I", 2**32 - 1)]),
    "raw count differs": request(raw_input_contents=[b"", b""]),
    "raw FP16": request(datatype="FP16", raw_input_contents=[b"\0\0"]),
    "k zero": request(parameters={"k": pb.InferParameter(int64_param=0)}),
    "k string": request(parameters={"k": pb.InferParameter(string_param="ten")}),
    "k without value": request(parameters={"k": pb.InferParameter()}),
    "unknown parameter": request(parameters={"top": pb.InferParameter(int64_param=3)}),
    "unknown output": request(outputs=[{"name": "items"}]),
    "too many rows": request(shape=[65], contents={"bytes_contents": [b"1"] * 65}),
}


@pytest.fixture
def channel(predictor: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{predictor.grpc_port}") as channel:
        yield channel


def code_of(call: Any) -> tuple[Any, str]:
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, "answered"


def test_every_malformed_request_gets_a_client_error_with_a_reason(channel: grpc.Channel) -> None:
    stub = pb_grpc.GRPCInferenceServiceStub(channel)
    assert len(MALFORMED) >= 12
    allowed = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    wrong = {}
    for name, message in MALFORMED.items():
        code, reason = code_of(lambda message=message: stub.ModelInfer(message, timeout=5))
        if code not in allowed or not reason:
            wrong[name] = (code, reason)
        assert stub.ModelInfer(request(), timeout=5).model_version == "2"
    assert not wrong


def test_bytes_that_are_no_message_are_an_invalid_argument(channel: grpc.Channel) -> None:
    call = channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)
    code, _ = code_of(lambda: call(b"\xff\xff\xff\xff", timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    stub = pb_grpc.GRPCInferenceServiceStub(channel)
    code, _ = code_of(lambda: stub.ModelInfer(request(contents={"bytes_contents": [b"x" * 70_000]}), timeout=5))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_models_cannot_be_loaded_or_unloaded(channel: grpc.Channel) -> None:
    stub = pb_grpc.GRPCInferenceServiceStub(channel)
    for call, message in (
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="films")),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="films")),
    ):
        code, _ = code_of(lambda call=call, message=message: call(message, timeout=5))
        assert code is grpc.StatusCode.UNIMPLEMENTED
    assert stub.ModelReady(pb.ModelReadyRequest(name="films"), timeout=5).ready
    assert stub.ModelInfer(request(), timeout=5).model_name == "films"
    assert (
        code_of(lambda: stub.ModelReady(pb.ModelReadyRequest(name="books"), timeout=5))[0] is grpc.StatusCode.NOT_FOUND
    )
