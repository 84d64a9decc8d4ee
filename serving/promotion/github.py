"""Pull requests of GitHub, by its REST API of version 2022-11-28 (docs.github.com/rest/pulls)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from slipway.serving.promotion.hosts import PullRequest
from slipway.serving.promotion.http_api import JsonApi, NoAnswerError, RefusedRequestError

LONGEST_BODY = 65_000


class GitHub:
    """A repository on GitHub or GitHub Enterprise Server.

    Args:
        api: https://api.github.com, or https://HOST/api/v3.
        path: owner/name.
        token: Never printed.
    """

    def __init__(self, api: str, path: str, token: str) -> None:
        self._owner = path.partition("/")[0]
        self.root = f"/repos/{quote(path)}"
        headers = {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Authorization": f"Bearer {token}",
        }
        self.api = JsonApi("GitHub", api, headers)

    def login(self) -> str | None:
        """See `Host`. The token of a workflow has no user, and is answered 403."""
        try:
            return str(self.api.get("/user")["login"])
        except RefusedRequestError as error:
            if error.status == 401:
                raise
            return None

    def find(self, branch: str, base: str) -> PullRequest | None:
        """See `Host`."""
        query = {"head": f"{self._owner}:{branch}", "base": base, "state": "all"}
        query |= {"sort": "created", "direction": "desc"}
        # A host that does not know the owner's filter would answer with everybody's.
        found = [_read(entry) for entry in self.api.get(f"{self.root}/pulls", query) if _is_of(entry, branch)]
        return next((entry for entry in found if entry.state == "open"), found[0] if found else None)

    def open(self, title: str, body: str, branch: str, base: str) -> PullRequest:
        """See `Host`."""
        content = {"title": title, "head": branch, "base": base, "body": body[:LONGEST_BODY]}
        try:
            return _read(self.api.post(f"{self.root}/pulls", content))
        except (RefusedRequestError, NoAnswerError) as error:
            if isinstance(error, RefusedRequestError) and error.status != 422:
                raise
            # Somebody opened it at the same time, or the answer to our own request was lost.
            found = self.find(branch, base)
            if found is None or found.state != "open":
                raise
            return found

    def approve(self, number: int, commit: str) -> None:
        """See `Host`."""
        content = {"event": "APPROVE", "commit_id": commit, "body": "Approved with `slipway promote --approve`."}
        self.api.post(f"{self.root}/pulls/{number}/reviews", content)


def _is_of(entry: Any, branch: str) -> bool:
    return bool(entry["head"]["ref"] == branch)


def _read(entry: Any) -> PullRequest:
    state = "merged" if entry.get("merged_at") else "open" if entry["state"] == "open" else "closed"
    return PullRequest(int(entry["number"]), str(entry["html_url"]), state)  # type: ignore[arg-type]
