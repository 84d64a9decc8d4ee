"""The register step on real MLflow: what is registered, what is refused, and that a second run finds the first."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from slipway.components.evaluate.step import EvaluateRequest
from slipway.components.evaluate.step import run as evaluate
from slipway.components.progress import Progress
from slipway.components.register.step import RegisterRequest, RegisterResult, run
from slipway.contracts.artifacts import read_manifest
from slipway.contracts.bundle import read_bundle
from slipway.contracts.errors import ArtifactError, BundleError, GateError, ServiceError
from slipway.contracts.evaluation import GateSpec
from slipway.models import registry as registry_module
from slipway.models.families import load_model
from slipway.models.registry import registry_for

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


def evaluation(world: World, output: Path, model: str = "good", **fields: Any) -> Path:
    request = EvaluateRequest(features=world.features, model=world.models[model], output=output, **fields)
    return evaluate(request, Progress()).output


def register(world: World, project: Path, judged: Path, model: str = "good", **fields: Any) -> RegisterResult:
    settings: dict[str, Any] = {
        "name": "films",
        "model": world.models[model],
        "features": world.features,
        "dataset": world.dataset,
        "output": project / "registration",
        "project_directory": project,
    }
    return run(RegisterRequest(evaluation=judged, **(settings | fields)), Progress())


def test_a_registered_model_is_a_loadable_bundle_with_metrics_lineage_features_and_card(
    world: World, project: Path, tmp_path: Path
) -> None:
    judged = evaluation(world, tmp_path / "e")
    result = register(world, project, judged, run_id="run-1", sources=("samples://movielens-small",))
    assert result.new
    assert result.bundle.parent == project / ".slipway" / "bundles" / "films"
    assert result.bundle.name == result.bundle_sha256[:12]
    manifest = read_bundle(result.bundle)
    assert manifest.name == "films"
    assert manifest.metrics["ndcg@10"]["low"] < manifest.metrics["ndcg@10"]["value"]
    assert manifest.metrics["protocol"]["ranking"] == "full-rank"
    assert manifest.lineage["features"] == read_manifest(world.features).fingerprint
    assert len(load_model(result.bundle).users) == 150
    version = registry_for(project).get("films", "challenger")
    assert (version.version, version.bundle_dir, version.sha256) == (
        result.version,
        result.bundle,
        result.bundle_sha256,
    )
    assert version.tags["slipway.run_id"] == "run-1"
    kept = Path(version.tags["slipway.features"])
    original = pq.read_table(world.features / "latest_user_activity.parquet")
    assert pq.read_table(kept / "latest_user_activity.parquet").equals(original)
    assert json.loads((kept / "views.json").read_text())[0]["name"] == "user_activity"
    card = (result.bundle / "card.md").read_text()
    for text in ("Intended use", "GroupLens", "ndcg@10", "user_activity=low", "minimum_users", result.bundle_sha256):
        assert text in card
    registration = json.loads((result.output / "registration.json").read_text())
    assert registration["bundle_uri"] == result.bundle.as_uri()


def test_registering_again_finds_the_version_even_when_the_comparison_has_changed(
    world: World, project: Path, tmp_path: Path
) -> None:
    first = register(world, project, evaluation(world, tmp_path / "a"))
    # After a promotion the same model is compared with itself.
    again = register(world, project, evaluation(world, tmp_path / "b", champion=world.models["good"]), run_id="run-2")
    assert not again.new
    assert again.version == first.version
    assert again.bundle_sha256 == first.bundle_sha256
    assert len(registry_for(project).list("films")) == 1


def test_failed_gates_refuse_with_every_value_and_bound_and_register_nothing(world: World, tmp_path: Path) -> None:
    gates = (
        GateSpec(metric="ndcg@10", minimum=0.99),
        GateSpec(metric="auc", minimum=0.1),
        GateSpec(metric="coverage@10", maximum=0.01),
    )
    judged = evaluation(world, tmp_path / "e", gates=gates)
    with pytest.raises(GateError) as refusal:
        register(world, tmp_path / "empty", judged)
    text = str(refusal.value)
    assert refusal.value.exit_code == 3
    assert "2 of 4 gates were not met" in text
    assert "ndcg@10 >= 0.99: 0." in text
    assert "coverage@10 <= 0.01: " in text
    assert "auc" not in text
    assert not (tmp_path / "empty").exists()


def test_an_evaluation_of_another_model_is_refused(world: World, tmp_path: Path) -> None:
    judged = evaluation(world, tmp_path / "e", "poor")
    with pytest.raises(ArtifactError, match="of another model"):
        register(world, tmp_path / "p", judged, "good")


def test_a_model_altered_after_evaluation_is_refused(world: World, tmp_path: Path) -> None:
    judged = evaluation(world, tmp_path / "e")
    copy = tmp_path / "copy"
    shutil.copytree(world.models["good"], copy)
    content = bytearray((copy / "weights.safetensors").read_bytes())
    content[-3] ^= 1
    (copy / "weights.safetensors").write_bytes(content)
    with pytest.raises(BundleError):
        run(
            RegisterRequest(
                name="films",
                model=copy,
                evaluation=judged,
                features=world.features,
                output=tmp_path / "o",
                project_directory=tmp_path / "p",
            ),
            Progress(),
        )


def test_gates_edited_after_evaluation_are_noticed(world: World, tmp_path: Path) -> None:
    judged = evaluation(world, tmp_path / "e", gates=(GateSpec(metric="ndcg@10", minimum=0.99),))
    content = json.loads((judged / "gates.json").read_text())
    content["passed"] = True
    for gate in content["gates"]:
        gate["passed"] = True
    (judged / "gates.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="not the file that was written"):
        register(world, tmp_path / "p", judged)


def test_with_mlflow_away_the_bundle_is_kept_and_the_error_says_to_run_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(registry_module, "BACKOFF_SECONDS", (0.01,))
    judged = evaluation(world, tmp_path / "e")
    with pytest.raises(ServiceError, match="MLflow does not answer"):
        register(world, tmp_path / "p", judged, tracking_uri=f"http://127.0.0.1:{port}")
    (bundle,) = (tmp_path / "p" / ".slipway" / "bundles" / "films").iterdir()
    assert read_bundle(bundle).name == "films"
