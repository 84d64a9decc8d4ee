"""Merge requests of GitLab, by its REST API of version 4 (docs.gitlab.com/api/merge_requests)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from slipway.serving.promotion.hosts import PullRequest
from slipway.serving.promotion.http_api import JsonApi, NoAnswerError, RefusedRequestError

LONGEST_DESCRIPTION = 1_000_000


class GitLab:
    """A project on GitLab.

    Args:
        api: https://gitlab.com/api/v4, or that of an own installation.
        path: group/name, with subgroups between them.
        token: Never printed.
    """

    def __init__(self, api: str, path: str, token: str) -> None:
        self.root = f"/projects/{quote(path, safe='')}"
        self.api = JsonApi("GitLab", api, {"PRIVATE-TOKEN": token})

    def login(self) -> str | None:
        """See `Host`. The token of a project has a user of its own."""
        try:
            return str(self.api.get("/user")["username"])
        except RefusedRequestError as error:
            if error.status == 401:
                raise
            return None

    def find(self, branch: str, base: str) -> PullRequest | None:
        """See `Host`."""
        query = {"source_branch": branch, "target_branch": base, "order_by": "created_at", "sort": "desc"}
        found = [_read(entry) for entry in self.api.get(f"{self.root}/merge_requests", query)]
        return next((entry for entry in found if entry.state == "open"), found[0] if found else None)

    def open(self, title: str, body: str, branch: str, base: str) -> PullRequest:
        """See `Host`."""
        content = {
            "source_branch": branch,
            "target_branch": base,
            "title": title,
            "description": body[:LONGEST_DESCRIPTION],
            "remove_source_branch": True,
        }
        try:
            return _read(self.api.post(f"{self.root}/merge_requests", content))
        except (RefusedRequestError, NoAnswerError) as error:
            if isinstance(error, RefusedRequestError) and error.status != 409:
                raise
            # Somebody opened it at the same time, or the answer to our own request was lost.
            found = self.find(branch, base)
            if found is None or found.state != "open":
                raise
            return found

    def approve(self, number: int, commit: str) -> None:
        """See `Host`."""
        self.api.post(f"{self.root}/merge_requests/{number}/approve", {"sha": commit})


def _read(entry: Any) -> PullRequest:
    state = {"opened": "open", "locked": "open", "merged": "merged"}.get(entry["state"], "closed")
    return PullRequest(int(entry["iid"]), str(entry["web_url"]), state)  # type: ignore[arg-type]
