"""The train step: a features artifact in, a bundle and curves out, MLflow told, and mistakes named."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slipway.components.latest_features import LatestFeatures
from slipway.components.progress import Progress
from slipway.components.train.step import TrainRequest, TrainResult, run
from slipway.contracts.artifacts import write_artifact
from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import ArtifactError, DataError, UsageError
from slipway.contracts.features import FeatureSchema, ViewSchema
from slipway.models.families import load_model
from slipway.models.ranking import recommend

VIEW = ViewSchema(
    name="activity", entity="user", features=(FeatureSchema(name="events"), FeatureSchema(name="days", dtype="int64"))
)
ITEMS = ViewSchema(name="popularity_view", entity="item", features=(FeatureSchema(name="events"),))
FACTORISATION = {"family": "matrix_factorization", "parameters": {"factors": 6, "epochs": 3}}
# Nobody listens there: MLflow is away.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    users = [f"u{row}" for row in range(60) for _ in range(8)]
    items = [f"i{(user * 7 + step * (1 + user % 3)) % 40}" for user in range(60) for step in range(8)]
    count = len(users)
    target = tmp_path_factory.mktemp("data") / "features"
    with write_artifact(target, kind="features", slipway_version="test") as draft:
        table = {
            "user": users,
            "item": items,
            "timestamp": pa.array(np.arange(count) * 1_000_000, pa.timestamp("us")),
            "weight": pa.array(generator.integers(1, 6, count).astype(float)),
            "rating": pa.array(generator.integers(1, 6, count).astype(float)),
        }
        pq.write_table(pa.table(table), draft.path / "train.parquet")
        labels = {
            "event_time": table["timestamp"],
            "events": generator.uniform(0, 9, count),
            "days": generator.integers(0, 5, count),
        }
        pq.write_table(pa.table(labels), draft.path / "train_activity.parquet")
        pq.write_table(pa.table({"events": labels["events"]}), draft.path / "train_popularity_view.parquet")
        known = [f"u{row}" for row in range(59, 4, -1)]  # the store has them in another order, and not all
        latest = {
            "user": known,
            "event_time": pa.array([0] * len(known), pa.timestamp("us")),
            "events": pa.array([None if row % 9 == 0 else float(row % 5) for row in range(len(known))]),
            "days": pa.array([row % 7 for row in range(len(known))], pa.int64()),
        }
        pq.write_table(pa.table(latest), draft.path / "latest_activity.parquet")
        views = [view.model_dump(mode="json") for view in (VIEW, ITEMS)]
        (draft.path / "views.json").write_text(json.dumps(views))
    return target


def train(features: Path, output: Path, model: dict[str, Any], **fields: Any) -> TrainResult:
    fields.setdefault("tracking_uri", NOWHERE)
    request = {"features": features, "output": output, "name": "films", "model": model, **fields}
    return run(TrainRequest.model_validate(request), Progress())


def test_the_bundle_holds_the_model_with_its_views_and_the_curves_lie_beside(features: Path, tmp_path: Path) -> None:
    result = train(features, tmp_path / "model", {**FACTORISATION, "features": ["activity"]})
    manifest = read_bundle(tmp_path / "model")
    assert result.fingerprint == bundle_digest(manifest)
    assert manifest.views == (VIEW,)
    assert (manifest.counts.users, manifest.counts.items, manifest.counts.interactions) == (60, 40, 480)
    assert manifest.parameters["factors"] == 6
    assert manifest.name == "films"
    curves = json.loads((tmp_path / "model" / "curves.json").read_text())["epochs"]
    assert [point["epoch"] for point in curves] == [1, 2, 3]
    assert result.metrics["loss"] == curves[-1]["loss"]
    values = LatestFeatures(features, manifest.views).of(["u5", "u0"])
    answer = recommend(load_model(tmp_path / "model"), ["u5", "u0"], k=5, features=values)
    assert answer.fallback == [None, None]


def test_the_same_request_gives_the_same_files_also_after_a_kill(features: Path, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Killing(Progress):
        def metric(self, name: str, value: float) -> None:
            if self.completed == 2:
                raise KilledError

    model = {**FACTORISATION, "features": ["activity"]}
    train(features, tmp_path / "whole", model)
    request = {"features": features, "output": tmp_path / "broken", "name": "films", "model": model}
    request |= {"checkpoint": tmp_path / "state", "tracking_uri": NOWHERE}
    with pytest.raises(KilledError):
        run(TrainRequest.model_validate(request), Killing())
    assert not (tmp_path / "broken").exists()
    train(features, tmp_path / "broken", model, checkpoint=tmp_path / "state")
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "broken").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def test_mlflow_gets_parameters_and_curves(features: Path, tmp_path: Path) -> None:
    result = train(
        features, tmp_path / "model", FACTORISATION, project_directory=tmp_path, tracking_uri=None, run_id="run-7"
    )
    assert result.warnings == ()
    with sqlite3.connect(tmp_path / ".slipway" / "mlflow.db") as database:
        assert database.execute("SELECT name FROM experiments WHERE name = 'films'").fetchall() == [("films",)]
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("run-7", "FINISHED")]
        parameters = dict(database.execute("SELECT key, value FROM params").fetchall())
        losses = database.execute("SELECT step FROM metrics WHERE key = 'loss' ORDER BY step").fetchall()
    assert parameters["factors"] == "6"
    assert parameters["family"] == "matrix_factorization"
    assert [step for (step,) in losses] == [1, 2, 3]


def test_training_ends_well_with_a_warning_when_mlflow_is_away(features: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Listening(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    request = {"features": features, "output": tmp_path / "model", "model": FACTORISATION, "tracking_uri": NOWHERE}
    result = run(TrainRequest.model_validate(request), Listening())
    assert read_bundle(tmp_path / "model")
    assert "MLflow has no record" in result.warnings[0]
    assert notes == [f"warning: {result.warnings[0]}"]


def test_a_family_of_the_projects_own_is_found_beside_the_project_file(features: Path, tmp_path: Path) -> None:
    (tmp_path / "best_sellers.py").write_text(
        "from slipway.models.popularity import Popularity\n\nclass BestSellers(Popularity):\n    family = 'mine'\n"
    )
    train(features, tmp_path / "model", {"family": "best_sellers:BestSellers"}, project_directory=tmp_path)
    assert read_bundle(tmp_path / "model").family == "best_sellers:BestSellers"
    assert recommend(load_model(tmp_path / "model", base=tmp_path), ["u1"], k=3).items[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"family": "matrix_factorisation"}, "Did you mean 'matrix_factorization'"),
        ({"family": "matrix_factorization", "parameters": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"family": "matrix_factorization", "parameters": {"epochs": "many"}}, "epochs: "),
        ({"family": "matrix_factorization", "features": ["activities"]}, "view 'activities', which was not made"),
        ({"family": "matrix_factorization", "features": ["popularity_view"]}, "reads views of users only"),
    ],
)
def test_a_mistake_in_the_model_part_is_named_and_nothing_is_written(
    features: Path, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(features, tmp_path / "model", model)
    assert list(tmp_path.iterdir()) == []


def test_a_features_artifact_that_is_not_whole_is_refused(features: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact here"):
        train(tmp_path / "nothing", tmp_path / "model", FACTORISATION)
    with write_artifact(tmp_path / "empty", kind="features", slipway_version="test") as draft:
        pq.write_table(pq.read_table(features / "train.parquet").slice(0, 0), draft.path / "train.parquet")
    with pytest.raises(DataError, match="no interactions"):
        train(tmp_path / "empty", tmp_path / "model", FACTORISATION)


def test_the_step_runs_from_the_command_line(features: Path, tmp_path: Path) -> None:
    arguments = ["--features", str(features), "--output", str(tmp_path / "model"), "--outcome", str(tmp_path)]
    command = [sys.executable, "-m", "slipway.components.train", *arguments, "--model.family", "popularity"]
    done = subprocess.run(
        [*command, "--tracking_uri", NOWHERE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_bundle(tmp_path / "model").family == "popularity"
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["interactions"] == 480


def test_loading_and_ranking_import_neither_torch_nor_mlflow_nor_scipy() -> None:
    program = (
        "import sys; import slipway.models.ranking, slipway.models.families as f;"
        "[f.load_family(name) for name in f.FAMILIES];"
        "print(sorted({'torch', 'mlflow', 'scipy', 'feast', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
