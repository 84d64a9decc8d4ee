"""A project on GitLab without the git program, by its API (docs.gitlab.com/api/commits)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import quote

from slipway.contracts.files import sha256_of
from slipway.serving.promotion.host_files import HostRepository
from slipway.serving.promotion.http_api import JsonApi, RefusedRequestError
from slipway.serving.promotion.repository import BranchMovedError, Remote


class GitLabRepository(HostRepository):
    """Reads files, makes commits and branches of a project on GitLab.

    Args:
        api: With the token.
        root: /projects/ID.
        page: The project's page.
        committer: Whose token it is.
    """

    def __init__(self, api: JsonApi, root: str, page: str, committer: str) -> None:
        super().__init__(page, committer)
        self._api = api
        self._root = root

    def look(self, *patterns: str) -> Remote:
        """See `PromotionRepository`."""
        main = self._api.get(self._root)["default_branch"]
        branches: dict[str, str] = {}
        for pattern in {*([str(main)] if main else []), *patterns}:
            prefix = pattern.removesuffix("*")
            query = {"search": f"^{prefix}", "per_page": "100"}
            for entry in self._api.get(f"{self._root}/repository/branches", query):
                name = str(entry["name"])
                if name == pattern or (pattern.endswith("*") and name.startswith(prefix)):
                    branches[name] = str(entry["commit"]["id"])
        return Remote(str(main) if main else None, branches)

    def read(self, commit: str, path: str) -> str | None:
        """See `PromotionRepository`."""
        try:
            entry = self._api.get(f"{self._root}/repository/files/{quote(path, safe='')}", {"ref": commit})
        except RefusedRequestError as error:
            if error.status == 404:
                return None
            raise
        return base64.b64decode(entry["content"]).decode(errors="surrogateescape")

    def commit(self, parent: str, files: Mapping[str, str], message: str) -> str:
        """See `PromotionRepository`. GitLab makes commit and branch at once: this only notes what to ask for."""
        name = f"pending-{sha256_of(parent + message + ''.join(files.values()))[:12]}"
        self._remember(name, parent, files, message)
        return name

    def push(self, commit: str, branch: str, *, expected: str | None) -> str:
        """See `PromotionRepository`."""
        pending = self._pending[commit]
        if expected is not None and self.look(branch).branches.get(branch) != expected:
            raise BranchMovedError(branch)
        actions = [
            {"action": "create" if pending.before[path] is None else "update", "file_path": path, "content": content}
            for path, content in pending.after.items()
        ]
        body = {"branch": branch, "commit_message": pending.message, "actions": actions}
        if expected is None:
            body["start_sha"] = pending.parent
        try:
            made = str(self._api.post(f"{self._root}/repository/commits", body)["id"])
        except RefusedRequestError as error:
            if error.status == 400 and self.look(branch).branches.get(branch) != expected:
                raise BranchMovedError(branch) from error
            raise
        self._pending[made] = pending
        return made
