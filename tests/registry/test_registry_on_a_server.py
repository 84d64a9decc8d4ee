"""The registry on a real MLflow server, which keeps its own copy of each bundle."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipway.contracts.bundle import Counts, bundle_digest, read_bundle, write_bundle
from slipway.contracts.errors import BundleError
from slipway.models.bundle_upload import ARTIFACT
from slipway.models.mlflow_client import quiet_mlflow
from slipway.models.registry import FEATURES_TAG, Registry
from slipway.models.tensors import write_tensors

pytestmark = pytest.mark.integration


def make_bundle(directory: Path, seed: int) -> Path:
    directory.mkdir(parents=True)
    write_tensors(directory / "weights.safetensors", {"a": np.random.default_rng(seed).random(3)})
    write_tensors(directory / "index.safetensors", {"b": np.arange(3)})
    write_bundle(directory, family="popularity", counts=Counts(users=1, items=1, interactions=1))
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/kept"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 280
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(30)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def digests_below(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_server_keeps_a_copy_of_each_bundle_and_knows_it_again(server: str, tmp_path: Path) -> None:
    registry = Registry(server)
    bundle = make_bundle(tmp_path / "a", 1)
    first = registry.register(bundle, "films", {"git_commit": "abc"})
    second = registry.register(make_bundle(tmp_path / "b", 2), "films")
    again = Registry(server).register(bundle, "films", alias=None)
    assert (first.version, second.version, again.version) == ("1", "2", "1")
    assert first.bundle_dir == bundle
    assert registry.get("films", "challenger").version == "2"

    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    with quiet_mlflow():
        version = MlflowClient(server, server).get_model_version("films", "1")
        kept = Path(download_artifacts(run_id=version.run_id, artifact_path=ARTIFACT, tracking_uri=server))
    assert version.source.startswith("mlflow-artifacts:")
    assert digests(kept) == digests(bundle)
    read_bundle(kept, verify=True)


def test_an_upload_that_was_cut_off_is_begun_anew(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    bundle = make_bundle(tmp_path / "c", 3)

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_artifacts", cut_off)
        with pytest.raises(KeyboardInterrupt):
            Registry(server).register(bundle, "songs")
    assert Registry(server).list("songs") == []
    assert Registry(server).register(bundle, "songs").version == "1"


def test_a_machine_without_the_folder_fetches_the_servers_copy(server: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "here" / "d", 4)
    (bundle / "features").mkdir()
    (bundle / "features" / "manifest.json").write_text("{}")
    Registry(server).register(bundle, "plays", {FEATURES_TAG: str(bundle / "features")})
    before = digests_below(bundle)
    bundle.rename(tmp_path / "away")
    elsewhere = Registry(server, bundles=tmp_path / "there")
    found = elsewhere.with_bundle(elsewhere.get("plays", "1"))
    assert found.bundle_dir == tmp_path / "there" / "plays" / found.sha256[:12]
    assert digests_below(found.bundle_dir) == before
    assert found.tags[FEATURES_TAG] == str(found.bundle_dir / "features")
    assert bundle_digest(read_bundle(found.bundle_dir)) == found.sha256
    # The next look finds it there.
    assert elsewhere.get("plays", "1").bundle_dir == found.bundle_dir


def test_a_copy_that_is_not_what_was_registered_is_refused(server: str, tmp_path: Path) -> None:
    first = Registry(server).register(make_bundle(tmp_path / "e", 5), "poems")
    (tmp_path / "e").rename(tmp_path / "away")
    elsewhere = Registry(server, bundles=tmp_path / "there")
    wrong = replace(first, sha256="0" * 64)
    with pytest.raises(BundleError, match="another bundle"):
        elsewhere.with_bundle(wrong)
    assert list((tmp_path / "there" / "poems").iterdir()) == []
