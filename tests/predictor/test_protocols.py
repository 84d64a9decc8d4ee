"""V1 and V2, REST and gRPC, give the one ranking, in batches as alone."""

from __future__ import annotations

import math
import time
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.contracts.events import RequestSigner, TokenOutcome, load_or_create_key
from slipway.contracts.metrics import PREDICTOR_METRICS, SMOKE_TEST_HEADER
from slipway.models.families import load_model
from slipway.models.ranking import recommend
from slipway.serving.predictor.kserve_sdk import InferInput, InferRequest, InvalidInput
from slipway.serving.predictor.kserve_sdk import grpc_predict_v2_pb2_grpc as pb_grpc
from slipway.serving.predictor.queries import parse_v1, parse_v2
from slipway.serving.predictor.settings import Limits

ARM = 'model="films",version="2"'


@pytest.mark.integration
def test_answers_equal_the_one_ranking_in_batches_and_alone(predictor: Any, bundle: Path) -> None:
    model = load_model(bundle)
    users = [str(user) for user in range(0, 200, 5)] + ["nobody"]
    expected = recommend(model, users, k=7)
    status, answer = predictor.predict(*({"user": user, "k": 7} for user in users))
    assert status == 200
    assert (answer["model_name"], answer["model_version"]) == ("films", "2")
    predictions = answer["predictions"]
    assert [prediction["items"] for prediction in predictions] == expected.items
    assert [prediction["scores"] for prediction in predictions] == expected.scores
    assert [prediction["fallback"] for prediction in predictions] == [*[None] * 40, "unknown_user"]
    assert {prediction["features"] for prediction in predictions} == {"none"}
    for user, items in list(zip(users, expected.items, strict=True))[::8]:
        assert predictor.predict({"user": user, "k": 7})[1]["predictions"][0]["items"] == items


@pytest.mark.integration
def test_each_instance_has_its_own_length_seen_items_and_exclusions(predictor: Any, bundle: Path) -> None:
    model = load_model(bundle)
    first = recommend(model, ["3"], k=1).items[0][0]
    _, answer = predictor.predict(
        {"user": 3, "k": 2},
        {"user": "3", "k": 500, "exclude_seen": False},
        {"user": "3", "k": 2, "exclude": [first, "no such film"]},
        {"user": "3"},
    )
    plain, everything, without, default = answer["predictions"]
    assert plain["items"] == recommend(model, ["3"], k=2).items[0]
    assert plain["user"] == "3"
    assert len(everything["items"]) == 500
    assert set(everything["items"]) - set(recommend(model, ["3"], k=500).items[0])
    assert without["items"] == recommend(model, ["3"], k=3).items[0][1:]
    assert len(default["items"]) == 10


@pytest.mark.integration
def test_v2_gives_the_same_over_rest_and_grpc_as_tensors_and_as_bytes(predictor: Any, bundle: Path) -> None:
    expected = recommend(load_model(bundle), ["7", "nobody"], k=3)
    body = {
        "id": "mine",
        "parameters": {"k": 3},
        "inputs": [{"name": "user", "shape": [2, 1], "datatype": "BYTES", "data": [["7"], ["nobody"]]}],
    }
    for path in ("/v2/models/films/infer", "/v2/models/films/versions/2/infer"):
        status, answer = predictor.post(path, body)
        assert status == 200
        outputs = {output["name"]: output for output in answer["outputs"]}
        assert outputs["item"]["shape"] == [2, 3]
        assert outputs["item"]["data"] == list(chain(*expected.items))
        assert outputs["score"]["data"] == list(chain(*expected.scores))
        assert outputs["fallback"]["data"] == ["", "unknown_user"]
        assert (answer["id"], answer["model_version"]) == ("mine", "2")
        assert answer["parameters"]["request_id"]

    named = InferInput("user", [2], "BYTES", [b"7", b"nobody"])
    raw = InferInput("user", [2], "BYTES")
    raw.set_data_from_numpy(np.array([b"7", b"nobody"], dtype=np.object_), binary_data=True)
    with grpc.insecure_channel(f"127.0.0.1:{predictor.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        for tensor in (named, raw):
            message = InferRequest("films", [tensor], parameters={"k": 3}, model_version="2").to_grpc()
            reply = stub.ModelInfer(message, timeout=5)
            assert reply.model_version == "2"
            assert [output.name for output in reply.outputs] == ["item", "score", "count", "fallback", "features"]
            if reply.outputs[0].contents.bytes_contents:
                items = [item.decode() for item in reply.outputs[0].contents.bytes_contents]
                assert items == list(chain(*expected.items))
            else:
                assert np.frombuffer(reply.raw_output_contents[1]).tolist() == list(chain(*expected.scores))


@pytest.mark.integration
def test_integer_tensors_are_users_too_and_wanted_outputs_are_all_that_comes(predictor: Any, bundle: Path) -> None:
    body = {
        "inputs": [{"name": "user", "shape": [1], "datatype": "INT64", "data": [7]}],
        "outputs": [{"name": "item"}],
    }
    _, answer = predictor.post("/v2/models/films/infer", body)
    assert [output["name"] for output in answer["outputs"]] == ["item"]
    assert answer["outputs"][0]["data"] == recommend(load_model(bundle), ["7"], k=10).items[0]


@pytest.mark.integration
def test_health_and_metadata_are_open(predictor: Any) -> None:
    assert predictor.get("/v2/health/ready") == (200, {"ready": True})
    assert predictor.get("/v2/health/live")[0] == 200
    assert predictor.get("/v1/models") == (200, {"models": ["films"]})
    assert predictor.get("/v2/models/films/versions/2/ready")[0] == 200
    assert predictor.get("/v2/models/films")[1]["inputs"][0]["name"] == "user"


@pytest.mark.integration
def test_an_answer_carries_a_request_id_that_the_project_key_verifies(predictor: Any) -> None:
    _, answer = predictor.predict({"user": "1"})
    signer = RequestSigner(load_or_create_key(predictor.log.parent / "key"))
    outcome, token = signer.verify(answer["request_id"], now=time.time(), expiry=60)
    assert outcome is TokenOutcome.OK
    assert token is not None
    assert (token.model, token.version) == ("films", "2")


@pytest.mark.integration
def test_every_request_is_counted_once_with_the_code_its_client_saw(predictor: Any) -> None:
    before = predictor.metrics()
    predictor.predict({"user": "1"}, {"user": "nobody"})
    predictor.predict({"user": "1", "k": 0})
    predictor.post("/v1/models/books:predict", {})
    after = predictor.metrics()

    def grown(name: str) -> float:
        return after[name] - before[name]

    for code in (200, 400, 404):
        assert grown(f'slipway_requests_total{{code="{code}",{ARM}}}') == 1
    assert grown(f"slipway_request_duration_seconds_count{{{ARM}}}") == 3
    assert grown(f"slipway_predictions_total{{{ARM}}}") == 2
    assert grown(f"slipway_scores_count{{{ARM}}}") == 2
    assert grown('slipway_fallbacks_total{model="films",reason="unknown_user",version="2"}') == 1


@pytest.mark.integration
def test_a_smoke_test_is_answered_and_leaves_no_trace_in_what_rollouts_compare(predictor: Any) -> None:
    before = predictor.metrics()
    body = {"instances": [{"user": "nobody"}]}
    code, answer = predictor.post("/v1/models/films:predict", body, **{SMOKE_TEST_HEADER: "1"})
    assert (code, answer["predictions"][0]["fallback"]) == (200, "unknown_user")
    after = predictor.metrics()
    compared = ("slipway_predictions_total", "slipway_fallbacks_total", "slipway_empty", "slipway_scores")
    assert {name: after[name] for name in after if name.startswith(compared)} == {
        name: before[name] for name in before if name.startswith(compared)
    }


@pytest.mark.integration
def test_series_exist_before_anything_happened_and_warm_up_is_not_counted(start: Any, bundle: Path) -> None:
    with start(bundle, "--grpc-port", "0") as fresh:
        metrics = fresh.metrics()
        assert fresh.seconds_to_first_answer < 8
    assert metrics[f'slipway_requests_total{{code="200",{ARM}}}'] == 1  # the fixture's own
    assert metrics[f"slipway_predictions_total{{{ARM}}}"] == 1
    for code in ("400", "404", "413", "500", "503"):
        assert metrics[f'slipway_requests_total{{code="{code}",{ARM}}}'] == 0
    for reason in ("unknown_user", "features_missing", "features_unreachable"):
        assert metrics[f'slipway_fallbacks_total{{model="films",reason="{reason}",version="2"}}'] == 0
    families = {name.partition("{")[0] for name in metrics}
    without_views = {"slipway_feature_age_seconds", "slipway_feature_rows_total"}
    for definition in PREDICTOR_METRICS:
        name = f"{definition.name}_bucket" if definition.kind == "histogram" else definition.name
        assert name in families or name in without_views


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["instances", "user", "k", "exclude", "exclude_seen"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(json_values)
def test_any_json_is_either_queries_or_a_refusal(body: Any) -> None:
    for candidate in (body, {"instances": [body]}, {"instances": [{"user": "1", "k": body}]}):
        try:
            queries = parse_v1(candidate, Limits())
        except InvalidInput as refusal:
            reason = str(refusal)
        else:
            reason = "none"
            assert all(query.user and 1 <= query.k <= 1000 for query in queries)
        assert reason


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(-3, 5) | st.floats() | st.none(), max_size=3) | st.none(),
    datatype=st.sampled_from(["BYTES", "INT32", "INT64", "UINT64", "FP32", "BOOL", "X"]),
    data=st.none()
    | st.lists(st.none() | st.text(max_size=2) | st.integers() | st.floats() | st.lists(st.text()), max_size=4),
    raw=st.none() | st.binary(max_size=40),
)
def test_any_tensor_is_either_queries_or_a_refusal(shape: Any, datatype: str, data: Any, raw: Any) -> None:
    tensor = InferInput("user", shape, datatype, data)
    tensor._raw_data = raw
    try:
        queries = parse_v2(InferRequest("films", [tensor]), Limits())
    except InvalidInput as refusal:
        reason = str(refusal)
    else:
        reason = "none"
        assert math.prod(shape) == len(queries)
    assert reason
