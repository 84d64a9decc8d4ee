"""Promotion over git's own HTTP transport, with a password: its server answers, and git alone hands the token over."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from git_forge import TRAFFIC, Forge, candidate, git

from slipway.cli.promotion import promoter_of
from slipway.contracts.errors import ServiceError
from slipway.contracts.project import load_project

pytestmark = pytest.mark.integration

WANTED = "Basic " + base64.b64encode(b"x-access-token:token-of-ada").decode()


class GitServer:
    """`git http-backend` behind basic authentication; `given` are the passwords that it was offered."""

    def __init__(self, root: Path) -> None:
        self.given: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                given = self.headers.get("authorization")
                server.given.append(given)
                if given != WANTED:
                    self.send_response(401)
                    self.send_header("www-authenticate", 'Basic realm="git"')
                    self.end_headers()
                    return
                parts = urlsplit(self.path)
                variables = {
                    "GIT_PROJECT_ROOT": str(root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": parts.path,
                    "QUERY_STRING": parts.query,
                    "REMOTE_USER": "ada",
                    "CONTENT_TYPE": self.headers.get("content-type", ""),
                    "CONTENT_LENGTH": self.headers.get("content-length", "0"),
                    "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                    "HTTP_GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                }
                body = self.rfile.read(int(variables["CONTENT_LENGTH"]))
                command = ["git", "http-backend"]
                done = subprocess.run(command, input=body, env=os.environ | variables, capture_output=True)
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
                self.send_response(int(headers.pop("Status", "200").split()[0]))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _serve  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/acme/models.git"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()


@pytest.fixture
def served(github: Forge, tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "root" / "acme").mkdir(parents=True)
    (tmp_path / "root" / "acme" / "models.git").symlink_to(github.bare)
    git(github.bare, "config", "http.receivepack", "true")
    server = GitServer(tmp_path / "root")
    yield server
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


@pytest.fixture
def project(github: Forge, served: GitServer, tmp_path: Path) -> Path:
    """A project outside every checkout that names the repository by its address."""
    promotion = {
        "repository": served.address,
        "host": "github",
        "api": github.host.address,
        "environments": [{"name": "staging", "traffic": TRAFFIC}],
    }
    document = {
        "apiVersion": "slipway.dev/v1alpha1",
        "name": "films",
        "data": {"interactions": {"source": "events.parquet"}},
        "promotion": promotion,
    }
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "slipway.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "alone"


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ada@example.com")


def test_git_gets_the_token_when_it_asks_and_the_pull_request_is_opened(
    github: Forge, served: GitServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_GIT_TOKEN", "token-of-ada")
    with promoter_of(load_project(project), lambda _: None) as promoter:
        assert "token-of-ada" not in repr(promoter.repository)
        outcome = promoter.promote(candidate(1), "staging")
    assert outcome.status == "opened"
    assert outcome.branch in github.branches()
    # Git offers nothing until it is asked, and then the token.
    assert set(served.given) == {None, WANTED}
    for path in project.rglob("*"):
        assert not path.is_file() or b"token-of-ada" not in path.read_bytes(), path


def test_a_token_that_the_git_server_refuses_is_told_and_not_asked_for_at_the_terminal(
    served: GitServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("token-of-nobody", ""):
        monkeypatch.setenv("SLIPWAY_GIT_TOKEN", token)
        with promoter_of(load_project(project), lambda _: None) as promoter:
            with pytest.raises(ServiceError, match="the Git remote refuses") as told:
                promoter.promote(candidate(1), "staging")
            assert "SLIPWAY_GIT_TOKEN" in str(told.value.remedy)
            assert "token-of-nobody" not in str(told.value)
