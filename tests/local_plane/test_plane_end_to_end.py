"""`slipway up`, `status`, `logs` and `down` with real predictors, features in Redis and joined feedback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.cli.main import run_command_line
from slipway.contracts.artifacts import write_artifact
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.models.families import save_model
from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue
from slipway.models.matrix_factorization.model import MatrixFactorization
from slipway.models.ranking import recommend
from slipway.models.registry import registry_for
from slipway.models.seen import SeenItems
from slipway.models.standardisation import Standardisation
from slipway.serving.local import control
from slipway.serving.local.observed import read_observed
from slipway.serving.local.probes import get_json
from slipway.serving.local.records import marked_processes

pytestmark = [pytest.mark.integration, pytest.mark.end_to_end, pytest.mark.xdist_group("plane_end_to_end")]

USERS, ITEMS, FACTORS = 50, 200, 8
VIEW = ViewSchema(
    name="user_activity",
    entity="user",
    features=(FeatureSchema(name="events_7d"), FeatureSchema(name="events_30d")),
)
PROJECT = """
apiVersion: slipway.dev/v1alpha1
name: films
data: {interactions: {source: ratings.parquet, columns: {user: u, item: i, timestamp: t}}}
serving: {replicas: 2, feedback_wait: 1s}
"""


def make_model(seed: int) -> tuple[MatrixFactorization, np.ndarray]:
    random = np.random.default_rng(seed)
    user_rows, item_rows = np.repeat(np.arange(USERS), 5), random.integers(0, ITEMS, 5 * USERS)
    catalogue = Catalogue(
        users=IdIndex.from_strings(str(user) for user in range(USERS)),
        items=IdIndex.from_strings(f"film-{item}" for item in range(ITEMS)),
        seen=SeenItems.from_pairs(user_rows, item_rows, n_users=USERS),
        popularity=np.bincount(item_rows, minlength=ITEMS) / USERS,
        interactions=len(user_rows),
    )
    values = random.normal(size=(USERS, 2)).astype(np.float32)
    standardisation = Standardisation.fit((VIEW,), {VIEW.name: values})
    model = MatrixFactorization(
        catalogue,
        user_offsets=random.normal(size=(USERS, FACTORS)).astype(np.float32),
        item_factors=random.normal(size=(ITEMS, FACTORS)).astype(np.float32),
        feature_weights=random.normal(size=(1 + len(standardisation), FACTORS)).astype(np.float32),
        standardisation=standardisation,
        parameters={},
    )
    return model, values


def write_features(directory: Path, values: np.ndarray) -> Path:
    with write_artifact(directory, kind="features", slipway_version="0.1.0") as draft:
        table = pa.table(
            {
                "user": sorted(str(user) for user in range(USERS)),  # the order of the rows in an index
                "event_time": pa.array([datetime.now(UTC)] * USERS, pa.timestamp("us", tz="UTC")),
                "events_7d": values[:, 0],
                "events_30d": values[:, 1],
            }
        )
        pq.write_table(table, draft.path / f"latest_{VIEW.name}.parquet")
        (draft.path / "views.json").write_text(json.dumps([VIEW.model_dump(mode="json")]))
    return directory


class Served:
    """A project with a registered champion, served by `slipway up`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "slipway.yaml"
        self.file.write_text(PROJECT)
        self.model, self.values = make_model(3)
        bundle = directory / ".slipway" / "bundles" / "films" / "one"
        bundle.parent.mkdir(parents=True)
        save_model(self.model, bundle, name="films")
        features = write_features(directory / ".slipway" / "features", self.values)
        tags = {"slipway.features": str(features)}
        registry_for(directory).register(bundle, "films", tags, "champion")

    def run(self, *words: str) -> int:
        return run_command_line([*words, "-f", str(self.file)])

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        address = read_observed(self.directory).endpoints["gateway"].removeprefix("http://")
        connection = HTTPConnection(address, timeout=10)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def predict(self, user: str) -> Any:
        status, answer = self.post("/v1/models/films:predict", {"instances": [{"user": user, "k": 5}]})
        assert status == 200, answer
        return answer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    served = Served(tmp_path_factory.mktemp("films").resolve())
    assert served.run("up") == 0
    yield served
    control.stop(served.directory)
    assert marked_processes(served.directory / ".slipway/serving") == []


def test_answers_use_the_features_in_redis_and_equal_the_models_own_ranking(served: Served) -> None:
    users = [str(user) for user in range(0, USERS, 7)]
    rows = served.model.users.rows(users)
    expected = recommend(served.model, users, k=5, features={VIEW.name: served.values[rows]})
    for user, items in zip(users, expected.items, strict=True):
        answer = served.predict(user)
        assert answer["predictions"][0]["items"] == items
        assert answer["predictions"][0]["features"] == "present"
        assert answer["model_version"] == "1"


def test_feedback_through_the_gateway_is_joined_and_seen_by_prometheus(served: Served) -> None:
    answer = served.predict("3")
    click = {"request_id": answer["request_id"], "item": answer["predictions"][0]["items"][0], "type": "click"}
    status, accepted = served.post("/v1/feedback", click)
    assert status in (200, 202), accepted
    prometheus = read_observed(served.directory).endpoints["prometheus"]
    url = f"{prometheus}/api/v1/query?query=slipway_joined_clicked_requests_total"
    deadline = time.monotonic() + 45
    while time.monotonic() < deadline:
        rows = (get_json(url) or {"data": {"result": []}})["data"]["result"]
        if rows and float(rows[0]["value"][1]) >= 1:
            break
        time.sleep(0.1)
    assert rows[0]["metric"]["version"] == "1"
    assert float(rows[0]["value"][1]) == 1


def test_features_come_back_after_redis_was_lost(served: Served) -> None:
    redis = read_observed(served.directory).services["redis"].pid
    assert redis is not None
    os.kill(redis, signal.SIGKILL)
    deadline = time.monotonic() + 60
    seen = set()
    while time.monotonic() < deadline:
        status = read_observed(served.directory).services["redis"]
        prediction = served.predict("3")["predictions"][0]
        seen.add(prediction["features"])
        if status.ready and status.pid != redis and prediction["features"] == "present":
            break
        time.sleep(0.05)
    assert prediction["features"] == "present", seen


def test_grpc_answers_through_the_gateway_and_keeps_the_repository_closed(served: Served) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    with grpc.insecure_channel(read_observed(served.directory).endpoints["grpc"]) as channel:
        stub = service.GRPCInferenceServiceStub(channel)
        assert stub.ModelReady(messages.ModelReadyRequest(name="films"), timeout=10).ready
        with pytest.raises(grpc.RpcError) as refused:
            stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="films"), timeout=10)
    assert refused.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)


def test_status_and_logs_show_what_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.run("status", "-o", "json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["running"] is True
    assert status["arms"]["films-v1"]["ready"] == 2
    assert status["arms"]["films-v1"]["weight_applied"] == 100
    assert served.run("status") == 0
    assert "/v1/models/films:predict" in capsys.readouterr().out
    assert served.run("logs", "supervisor", "-n", "500") == 0
    assert "films-v1-0: ready" in capsys.readouterr().out
    assert served.run("logs", "nonsense") == 2
    assert "films-v1-0" in capsys.readouterr().err


def test_up_again_changes_nothing_and_names_no_error(served: Served) -> None:
    before = read_observed(served.directory)
    assert served.run("up") == 0
    after = read_observed(served.directory)
    assert after.supervisor_pid == before.supervisor_pid
    assert [one.pid for one in after.arms["films-v1"].replicas] == [one.pid for one in before.arms["films-v1"].replicas]


def test_killing_a_real_predictor_under_load_fails_no_request(served: Served) -> None:
    victim = read_observed(served.directory).arms["films-v1"].replicas[0].pid
    assert victim is not None
    for number in range(150):
        if number == 30:
            os.kill(victim, signal.SIGKILL)
        served.predict(str(number % USERS))


def test_cleaning_up_leaves_what_serves_and_is_registered(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    loose = served.directory / ".slipway" / "bundles" / "films" / "two"
    save_model(served.model, loose, name="films")
    assert served.run("clean", "--yes", "-o", "json") == 0
    removed = {row["path"] for row in json.loads(capsys.readouterr().out)}
    assert "bundles/films/two" in removed
    assert "bundles/films/one" not in removed
    assert not loose.exists()
    assert served.predict("3")["predictions"][0]["features"] == "present"


def test_down_ends_everything_and_status_then_says_so(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.run("down") == 0
    assert marked_processes(served.directory / ".slipway/serving") == []
    assert served.run("status") == 1
    assert "slipway up" in capsys.readouterr().out
    assert served.run("down") == 0
    assert "nothing was running" in capsys.readouterr().err


def test_the_supervisor_imports_nothing_heavy() -> None:
    code = "import sys, slipway.serving.local.supervisor; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pandas", "pyarrow", "mlflow", "feast", "kserve", "torch", "redis"} & set(modules)
