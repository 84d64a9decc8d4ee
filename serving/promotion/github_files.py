"""A repository on GitHub without the git program, by the Git database part of its API (docs.github.com/rest/git)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import quote

from slipway.serving.promotion.host_files import HostRepository
from slipway.serving.promotion.http_api import JsonApi, RefusedRequestError
from slipway.serving.promotion.repository import BranchMovedError, Remote


class GitHubRepository(HostRepository):
    """Reads files, makes commits and moves branches of a repository on GitHub.

    Args:
        api: With the token.
        root: /repos/OWNER/NAME.
        page: The repository's page.
        committer: Whose token it is.
    """

    def __init__(self, api: JsonApi, root: str, page: str, committer: str) -> None:
        super().__init__(page, committer)
        self._api = api
        self._root = root

    def look(self, *patterns: str) -> Remote:
        """See `PromotionRepository`."""
        main = str(self._api.get(self._root)["default_branch"])
        branches: dict[str, str] = {}
        for pattern in {main, *patterns}:
            prefix = pattern.removesuffix("*")
            for entry in self._api.get(f"{self._root}/git/matching-refs/heads/{quote(prefix)}"):
                name = str(entry["ref"]).removeprefix("refs/heads/")
                if name == pattern or (pattern.endswith("*") and name.startswith(prefix)):
                    branches[name] = str(entry["object"]["sha"])
        return Remote(main, branches)

    def read(self, commit: str, path: str) -> str | None:
        """See `PromotionRepository`."""
        try:
            entry = self._api.get(f"{self._root}/contents/{quote(path)}", {"ref": commit})
        except RefusedRequestError as error:
            if error.status == 404:
                return None
            raise
        if not isinstance(entry, dict) or entry.get("type") != "file":
            return None
        return base64.b64decode(entry["content"]).decode(errors="surrogateescape")

    def commit(self, parent: str, files: Mapping[str, str], message: str) -> str:
        """See `PromotionRepository`. The commit is the token's owner's; GitHub signs that of an app."""
        base = self._api.get(f"{self._root}/git/commits/{parent}")["tree"]["sha"]
        entries = [
            {"path": path, "mode": "100644", "type": "blob", "content": content} for path, content in files.items()
        ]
        tree = self._api.post(f"{self._root}/git/trees", {"base_tree": base, "tree": entries})["sha"]
        body = {"message": message, "tree": tree, "parents": [parent]}
        made = str(self._api.post(f"{self._root}/git/commits", body)["sha"])
        self._remember(made, parent, files, message)
        return made

    def push(self, commit: str, branch: str, *, expected: str | None) -> str:
        """See `PromotionRepository`."""
        try:
            if expected is None:
                self._api.post(f"{self._root}/git/refs", {"ref": f"refs/heads/{branch}", "sha": commit})
            else:
                # Without force, only a commit on top of what is there is taken.
                self._api.patch(f"{self._root}/git/refs/heads/{quote(branch)}", {"sha": commit, "force": False})
        except RefusedRequestError as error:
            if error.status == 422 and self.look(branch).branches.get(branch) != expected:
                raise BranchMovedError(branch) from error
            raise
        return commit
