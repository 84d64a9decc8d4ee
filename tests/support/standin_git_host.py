"""A stand-in for the pull request API of GitHub and GitLab, over the branches of a real bare repository.

The hosts themselves are the one border that nothing here can cross. What is asked and answered follows their published
descriptions: the OpenAPI of GitHub's REST API, version 2022-11-28 (`pulls/list`, `pulls/create`,
`pulls/create-review`, `users/get-authenticated`), and GitLab's REST API v4 (`merge_requests`, `approve`, `user`). A
request that they would refuse is refused here, in their words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from standin_git_files import PATH, Answer, HostFiles


@dataclass
class Request:
    """A pull request as the host holds it."""

    number: int
    title: str
    body: str
    branch: str
    base: str
    state: str = "open"
    merged_at: str | None = None
    reviews: list[dict[str, Any]] = field(default_factory=list)


class StandInHost(HostFiles):
    """What the host holds, and what it was asked. `users` are logins by token.

    `faults` are statuses that the next requests of a method are answered with, whatever they ask; `lost` are POSTs that
    are carried out and then answered 502, as by a proxy that gave up.
    """

    def __init__(self, kind: str, repository: Path) -> None:
        self.kind = kind
        self.repository = repository
        self.users = {"token-of-ada": "ada"}
        self.may_write = True
        self.requests: list[Request] = []
        self.asked: list[tuple[str, str]] = []
        self.faults: dict[str, list[int]] = {"GET": [], "POST": [], "PATCH": []}
        self.lost = 0
        self.address = ""
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.asked.append((method, path))
            if self.faults[method]:
                status = self.faults[method].pop(0)
                return status, {"message": {429: "API rate limit exceeded", 503: "Service unavailable"}.get(status, "")}
            login = self._login(headers)
            if login is None:
                wrong = "Bad credentials" if self.kind == "github" else "401 Unauthorized"
                return 401, {"message": wrong}
            answered = self._github if self.kind == "github" else self._gitlab
            status, content = answered(method, path, query, body, login)
            if method == "POST" and status < 300 and self.lost:
                self.lost -= 1
                return 502, {}
            return status, content

    def _login(self, headers: dict[str, str]) -> str | None:
        if self.kind == "gitlab":
            return self.users.get(headers.get("private-token", ""))
        scheme, _, token = headers.get("authorization", "").partition(" ")
        assert headers.get("accept") == "application/vnd.github+json"
        assert headers.get("x-github-api-version") == "2022-11-28"
        return self.users.get(token) if scheme == "Bearer" else None

    # ------------------------------------------------------------------------------------------------------- GitHub

    def _github(self, method: str, path: str, query: dict[str, str], body: Any, login: str) -> Answer:
        if (method, path) == ("GET", "/user"):
            return 200, {"login": login, "id": 1, "type": "User"}
        if path == f"/repos/{PATH}" or path.startswith((f"/repos/{PATH}/git/", f"/repos/{PATH}/contents/")):
            if method != "GET" and not self.may_write:
                return 403, {"message": "Resource not accessible by personal access token"}
            return self.github_files(method, path.removeprefix(f"/repos/{PATH}").lstrip("/"), query, body)
        if not path.startswith(f"/repos/{PATH}/pulls"):
            return 404, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest"}
        rest = [part for part in path.removeprefix(f"/repos/{PATH}/pulls").split("/") if part]
        if method == "GET" and not rest:
            owner, _, branch = query.get("head", "").partition(":")
            wanted = query.get("state", "open")
            found = [
                request
                for request in self.requests
                if (not query.get("head") or (owner == "acme" and request.branch == branch))
                and query.get("base", request.base) == request.base
                and wanted in ("all", request.state)
            ]
            newest = query.get("direction", "desc") == "desc"
            return 200, [self._pull(request) for request in sorted(found, key=lambda r: r.number, reverse=newest)]
        if not self.may_write:
            return 403, {"message": "Resource not accessible by personal access token"}
        if method == "POST" and not rest:
            return self._create_pull(body)
        if method == "POST" and len(rest) == 2 and rest[1] == "reviews":
            request = next((r for r in self.requests if str(r.number) == rest[0]), None)
            if request is None:
                return 404, {"message": "Not Found"}
            if body.get("event") not in ("APPROVE", "REQUEST_CHANGES", "COMMENT"):
                return 422, {"message": "Unprocessable Entity"}
            if body.get("commit_id") != self.head(request.branch):
                return 422, {"message": "Unprocessable Entity", "errors": ["No commit found for SHA"]}
            request.reviews.append({"by": login, **body})
            return 200, {"id": len(request.reviews), "state": "APPROVED", "user": {"login": login}}
        return 404, {"message": "Not Found"}

    def _create_pull(self, body: Any) -> Answer:
        def refused(**error: str) -> Answer:
            return 422, {"message": "Validation Failed", "errors": [{"resource": "PullRequest", **error}]}

        allowed = {"title", "head", "head_repo", "base", "body", "maintainer_can_modify", "draft", "issue"}
        if set(body) - allowed or not isinstance(body.get("head"), str) or not isinstance(body.get("base"), str):
            return 422, {"message": "Invalid request."}
        if not body.get("title"):
            return refused(code="missing_field", field="title")
        if len(body.get("body", "")) > 65_536:
            return refused(code="custom", field="body", message="body is too long (maximum is 65536 characters)")
        branch = body["head"].removeprefix("acme:")
        for name, value in (("head", branch), ("base", body["base"])):
            if self.head(value) is None:
                return refused(code="invalid", field=name)
        if self._open(branch, body["base"]) is not None:
            return refused(code="custom", message=f"A pull request already exists for acme:{branch}.")
        return 201, self._pull(self._add(body["title"], body.get("body", ""), branch, body["base"]))

    def _pull(self, request: Request) -> dict[str, Any]:
        return {
            "number": request.number,
            "state": request.state,
            "title": request.title,
            "body": request.body,
            "html_url": f"{self.address}/{PATH}/pull/{request.number}",
            "merged_at": request.merged_at,
            "head": {"label": f"acme:{request.branch}", "ref": request.branch, "sha": self.head(request.branch)},
            "base": {"label": f"acme:{request.base}", "ref": request.base, "sha": self.head(request.base)},
            "user": {"login": "ada"},
            "draft": False,
        }

    # ------------------------------------------------------------------------------------------------------- GitLab

    def _gitlab(self, method: str, path: str, query: dict[str, str], body: Any, login: str) -> Answer:
        if (method, path) == ("GET", "/user"):
            return 200, {"id": 1, "username": login, "state": "active"}
        project = "/projects/acme%2Fmodels"
        if path == project or path.startswith(f"{project}/repository/"):
            if method != "GET" and not self.may_write:
                return 403, {"message": "403 Forbidden"}
            rest = path.removeprefix(project).removeprefix("/repository/")
            return self.gitlab_files(method, rest, query, body)
        root = f"{project}/merge_requests"
        if not path.startswith(root):
            return 404, {"message": "404 Project Not Found"}
        parts = [part for part in path.removeprefix(root).split("/") if part]
        if method == "GET" and not parts:
            found = [
                request
                for request in self.requests
                if query.get("source_branch", request.branch) == request.branch
                and query.get("target_branch", request.base) == request.base
            ]
            newest = query.get("sort", "desc") == "desc"
            return 200, [self._merge(request) for request in sorted(found, key=lambda r: r.number, reverse=newest)]
        if not self.may_write:
            return 403, {"message": "403 Forbidden"}
        if method == "POST" and not parts:
            missing = [name for name in ("source_branch", "target_branch", "title") if not body.get(name)]
            if missing:
                return 400, {"error": f"{missing[0]} is missing"}
            if len(body.get("description", "")) > 1_048_576:
                return 400, {"message": {"description": ["is too long (maximum is 1048576 characters)"]}}
            other = self._open(body["source_branch"], body["target_branch"])
            if other is not None:
                said = f"Another open merge request already exists for this source branch: !{other.number}"
                return 409, {"message": [said]}
            new = self._add(body["title"], body.get("description", ""), body["source_branch"], body["target_branch"])
            return 201, self._merge(new)
        if method == "POST" and len(parts) == 2 and parts[1] == "approve":
            request = next((r for r in self.requests if str(r.number) == parts[0]), None)
            if request is None:
                return 404, {"message": "404 Not found"}
            if body.get("sha") not in (None, self.head(request.branch)):
                return 409, {"message": f"SHA does not match HEAD of source branch: {self.head(request.branch)}"}
            request.reviews.append({"by": login})
            return 201, {"approved": True, "approved_by": [{"user": {"username": login}}]}
        return 404, {"message": "404 Not Found"}

    def _merge(self, request: Request) -> dict[str, Any]:
        state = {"open": "opened", "closed": "merged" if request.merged_at else "closed"}[request.state]
        return {
            "id": 1000 + request.number,
            "iid": request.number,
            "state": state,
            "title": request.title,
            "description": request.body,
            "source_branch": request.branch,
            "target_branch": request.base,
            "sha": self.head(request.branch),
            "merged_at": request.merged_at,
            "web_url": f"{self.address}/{PATH}/-/merge_requests/{request.number}",
        }

    # ------------------------------------------------------------------------------------------------------- shared

    def close(self, number: int, *, merged: bool) -> None:
        """Marks a pull request as merged, or as turned down."""
        request = next(r for r in self.requests if r.number == number)
        request.state, request.merged_at = "closed", "2026-01-02T03:04:05Z" if merged else None

    def _open(self, branch: str, base: str) -> Request | None:
        return next((r for r in self.requests if (r.branch, r.base, r.state) == (branch, base, "open")), None)

    def _add(self, title: str, body: str, branch: str, base: str) -> Request:
        self.requests.append(Request(len(self.requests) + 1, title, body, branch, base))
        return self.requests[-1]


@contextmanager
def standin_host(kind: str, repository: Path) -> Iterator[StandInHost]:
    """Serves a host on loopback."""
    host = StandInHost(kind, repository)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            # GitLab knows a project by its escaped path; GitHub's is plain.
            path = parts.path if host.kind == "gitlab" else unquote(parts.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, content = host.answer(self.command, path, dict(parse_qsl(parts.query)), body, headers)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _serve  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
