"""Addresses of Git repositories: which host a repository is on, and which pages it has there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit

HostKind = Literal["github", "gitlab"]

_SCP_LIKE = re.compile(r"(?:[^@/\s]+@)?(?P<host>[A-Za-z0-9.-]+):(?!//)(?P<path>[^\s]+)")


@dataclass(frozen=True)
class RepositoryAddress:
    """A repository on a host: `host` with its port where the page is on another than 443, `path` as owner/name."""

    host: str
    path: str
    scheme: str = "https"

    @property
    def kind(self) -> HostKind | None:
        """What the host's name says that it is; None if it says nothing."""
        if self.host == "github.com" or "github" in self.host:
            return "github"
        return "gitlab" if "gitlab" in self.host else None

    @property
    def page(self) -> str:
        """The repository's page."""
        return f"{self.scheme}://{self.host}/{quote(self.path)}"


def parse_address(text: str) -> RepositoryAddress | None:
    """Returns the address of a repository on a host; None for a folder, or what is no address.

    Args:
        text: https://host/owner/name.git, ssh://git@host:22/owner/name.git, or git@host:owner/name.git.
    """
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname:
            return None
        web = parts.scheme in ("https", "http")
        host = f"{parts.hostname}:{parts.port}" if web and parts.port else parts.hostname
        path, scheme = parts.path, parts.scheme if web else "https"
    else:
        match = _SCP_LIKE.fullmatch(text)
        if match is None:
            return None
        host, path, scheme = match["host"], match["path"], "https"
    path = path.strip("/").removesuffix(".git")
    return RepositoryAddress(host.lower(), path, scheme) if "/" in path else None


def api_address(kind: HostKind, address: RepositoryAddress) -> str:
    """Returns where a host's REST API is, unless it was moved."""
    if kind == "gitlab":
        return f"{address.scheme}://{address.host}/api/v4"
    return "https://api.github.com" if address.host == "github.com" else f"{address.scheme}://{address.host}/api/v3"


def new_pull_request_page(kind: HostKind | None, address: RepositoryAddress, branch: str, base: str) -> str:
    """Returns the page on which a person opens the pull request of a branch."""
    if kind == "gitlab":
        query = urlencode({"merge_request[source_branch]": branch, "merge_request[target_branch]": base})
        return f"{address.page}/-/merge_requests/new?{query}"
    if kind == "github":
        return f"{address.page}/compare/{quote(base, safe='')}...{quote(branch, safe='')}?expand=1"
    return address.page
