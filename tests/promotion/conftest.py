"""Repositories on stand-ins of both hosts, away from the machine's own Git configuration and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from git_forge import Forge, forge_on


@pytest.fixture(autouse=True)
def own_git(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the machine's own Git configuration and tokens out."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("SLIPWAY_GIT_TOKEN", "GH_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN", "GIT_ASKPASS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.serving.promotion import http_api

    monkeypatch.setattr(http_api, "BACKOFF_SECONDS", (0.01, 0.01))


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Forge]:
    """Each test that takes it runs on both hosts."""
    with forge_on(request.param, tmp_path) as forge:
        yield forge


@pytest.fixture
def github(tmp_path: Path) -> Iterator[Forge]:
    with forge_on("github", tmp_path) as forge:
        yield forge
