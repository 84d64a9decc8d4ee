"""The registry on a real MLflow over SQLite."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from slipway.contracts.bundle import Counts, write_bundle
from slipway.contracts.errors import BundleError, ServiceError, UsageError
from slipway.models.registry import Registry, registry_for
from slipway.models.tensors import write_tensors

pytestmark = pytest.mark.integration


def make_bundle(directory: Path, seed: int) -> Path:
    directory.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    write_tensors(directory / "weights.safetensors", {"a": generator.random(3)})
    write_tensors(directory / "index.safetensors", {"b": np.arange(3)})
    write_bundle(directory, family="popularity", counts=Counts(users=1, items=1, interactions=1))
    return directory


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def registry(project: Path) -> Registry:
    return registry_for(project)


def test_a_project_without_a_registry_has_no_models_and_asking_makes_no_database(tmp_path: Path) -> None:
    empty = registry_for(tmp_path)
    assert empty.names() == []
    assert empty.list("films") == []
    assert empty.find("films", "champion") is None
    with pytest.raises(UsageError, match="no model 'films' is registered"):
        empty.get("films", "1")
    assert not (tmp_path / ".slipway").exists()


def test_registering_the_same_bundle_again_finds_its_version(registry: Registry, tmp_path: Path) -> None:
    first = registry.register(make_bundle(tmp_path / "a", 1), "films", {"git_commit": "abc"}, "challenger")
    second = registry.register(make_bundle(tmp_path / "b", 2), "films", alias="challenger")
    again = registry.register(make_bundle(tmp_path / "c", 1), "films", alias=None)
    assert (first.version, second.version, again.version) == ("1", "2", "1")
    assert again.bundle_dir == tmp_path / "c"
    assert again.tags["git_commit"] == "abc"
    assert registry.get("films", "challenger").version == "2"
    assert [version.aliases for version in registry.list("films")] == [(), ("challenger",)]


def test_an_alias_moves_and_stands_at_one_version_only(registry: Registry, tmp_path: Path) -> None:
    for seed in (1, 2):
        registry.register(make_bundle(tmp_path / str(seed), seed), "songs", alias=None)
    registry.set_alias("songs", "champion", "1")
    registry.set_alias("songs", "champion", "2")
    assert [version.aliases for version in registry.list("songs")] == [(), ("champion",)]
    registry.delete_alias("songs", "champion")
    assert registry.find("songs", "champion") is None


def test_an_unknown_version_names_those_that_exist(registry: Registry, tmp_path: Path) -> None:
    registry.register(make_bundle(tmp_path / "x", 5), "books")
    with pytest.raises(UsageError, match="no version or alias '9'") as problem:
        registry.get("books", "9")
    assert "1, challenger" in str(problem.value)
    with pytest.raises(UsageError):
        registry.set_alias("books", "champion", "9")


def test_an_altered_bundle_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bad", 3)
    content = bytearray((bundle / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "weights.safetensors").write_bytes(content)
    with pytest.raises(BundleError):
        registry.register(bundle, "spoilt")
    assert "spoilt" not in registry.names()


def test_a_server_that_is_away_gives_a_service_error_after_its_attempts(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    away = Registry(f"http://127.0.0.1:{port}", backoff=(0.01,))
    with pytest.raises(ServiceError, match="MLflow does not answer"):
        away.register(make_bundle(tmp_path / "a", 1), "films")
