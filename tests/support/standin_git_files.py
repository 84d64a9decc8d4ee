"""Files, commits and branches of the stand-in host, over a real bare repository.

What is asked and answered follows GitHub's `repos/get`, `repos/get-content` and `git/*`, and GitLab's
`repository/{branches,files,commits}`.
"""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PATH = "acme/models"
Answer = tuple[int, Any]


class HostFiles:
    """A bare repository as both hosts' APIs show it."""

    repository: Path

    def head(self, branch: str) -> str | None:
        """Returns the commit of a branch."""
        return self.heads(branch).get(branch)

    def heads(self, prefix: str) -> dict[str, str]:
        """Returns the commits of the branches whose names begin so."""
        listing = self.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").decode()
        found = dict(line.split(" ") for line in listing.splitlines())
        return {name: sha for name, sha in found.items() if name.startswith(prefix)}

    def github_files(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        """Answers what is asked below /repos/OWNER/NAME/."""
        first, _, rest = path.partition("/")
        if not path:
            return 200, {"full_name": PATH, "default_branch": "main"}
        if first == "contents":
            content = self.content(query["ref"], rest)
            if content is None:
                return 404, {"message": "Not Found"}
            encoded = base64.encodebytes(content).decode()
            return 200, {"type": "file", "encoding": "base64", "path": rest, "content": encoded}
        kind, _, rest = rest.partition("/")
        if (method, kind) == ("GET", "matching-refs"):
            found = self.heads(rest.removeprefix("heads/"))
            return 200, [{"ref": f"refs/heads/{n}", "object": {"type": "commit", "sha": s}} for n, s in found.items()]
        if (method, kind) == ("GET", "commits"):
            return 200, {"sha": rest, "tree": {"sha": self.git("rev-parse", f"{rest}^{{tree}}").decode().strip()}}
        if (method, kind) == ("POST", "trees"):
            assert all(set(entry) == {"path", "mode", "type", "content"} for entry in body["tree"])
            files = {entry["path"]: entry["content"] for entry in body["tree"]}
            return 201, {"sha": self.tree(body["base_tree"], files)}
        if (method, kind) == ("POST", "commits"):
            return 201, {"sha": self.made(body["tree"], body["parents"][0], body["message"])}
        if (method, kind) == ("POST", "refs"):
            if self.head(body["ref"].removeprefix("refs/heads/")) is not None:
                return 422, {"message": "Reference already exists"}
            self.git("update-ref", body["ref"], body["sha"])
            return 201, {"ref": body["ref"], "object": {"type": "commit", "sha": body["sha"]}}
        if (method, kind) == ("PATCH", "refs"):
            if self.head(rest.removeprefix("heads/")) != self.git("rev-parse", f"{body['sha']}^").decode().strip():
                return 422, {"message": "Update is not a fast forward"}
            self.git("update-ref", f"refs/{rest}", body["sha"])
            return 200, {"ref": f"refs/{rest}", "object": {"type": "commit", "sha": body["sha"]}}
        return 404, {"message": "Not Found"}

    def gitlab_files(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        """Answers what is asked below /projects/ID/repository/, and of the project itself where `path` is empty."""
        if method == "GET" and not path:
            return 200, {"id": 7, "path_with_namespace": PATH, "default_branch": "main"}
        if method == "GET" and path == "branches":
            assert query["search"].startswith("^")
            found = self.heads(query["search"].removeprefix("^"))
            return 200, [{"name": name, "commit": {"id": sha}} for name, sha in found.items()]
        if method == "GET" and path.startswith("files/"):
            escaped = path.removeprefix("files/")
            assert "/" not in escaped, "the path of a file must be escaped"
            content = self.content(query["ref"], unquote(escaped))
            if content is None:
                return 404, {"message": "404 File Not Found"}
            encoded = base64.b64encode(content).decode()
            return 200, {"file_path": unquote(escaped), "encoding": "base64", "content": encoded}
        if (method, path) == ("POST", "commits"):
            return self._gitlab_commit(body)
        return 404, {"message": "404 Not Found"}

    def _gitlab_commit(self, body: Any) -> Answer:
        branch, start = body["branch"], body.get("start_sha")
        if start is not None and self.head(branch) is not None:
            said = f"A branch called '{branch}' already exists. Switch to that branch in order to make changes"
            return 400, {"message": said}
        parent = start or str(self.head(branch))
        for action in body["actions"]:
            there = self.content(parent, action["file_path"]) is not None
            if there != (action["action"] == "update"):
                return 400, {"message": f"A file with this name {'already exists' if there else 'does not exist'}"}
        files = {action["file_path"]: action["content"] for action in body["actions"]}
        made = self.made(self.tree(parent, files), parent, body["commit_message"])
        self.git("update-ref", f"refs/heads/{branch}", made)
        return 201, {"id": made, "title": body["commit_message"].splitlines()[0]}

    def git(self, *arguments: str, text: bytes = b"", index: str | None = None) -> bytes:
        """Runs git in the repository."""
        names = {"AUTHOR_NAME": "ada", "AUTHOR_EMAIL": "a@h", "COMMITTER_NAME": "ada", "COMMITTER_EMAIL": "a@h"}
        variables = os.environ | {f"GIT_{name}": value for name, value in names.items()}
        if index is not None:
            variables["GIT_INDEX_FILE"] = index
        command = ["git", "-C", str(self.repository), *arguments]
        return subprocess.run(command, input=text, env=variables, capture_output=True, check=True).stdout

    def content(self, commit: str, path: str) -> bytes | None:
        """Returns a file of a commit."""
        try:
            return self.git("cat-file", "blob", f"{commit}:{path}")
        except subprocess.CalledProcessError:
            return None

    def tree(self, base: str, files: dict[str, str]) -> str:
        """Returns a tree with some files changed."""
        with tempfile.TemporaryDirectory() as folder:
            index = f"{folder}/index"
            self.git("read-tree", base, index=index)
            for path, content in files.items():
                blob = self.git("hash-object", "-w", "--stdin", text=content.encode()).decode().strip()
                self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", index=index)
            return self.git("write-tree", index=index).decode().strip()

    def made(self, tree: str, parent: str, message: str) -> str:
        """Returns a new commit."""
        return self.git("commit-tree", tree, "-p", parent, "-F", "-", text=message.encode()).decode().strip()
