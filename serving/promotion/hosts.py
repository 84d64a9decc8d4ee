"""Pull requests, whoever the host is: what promotion asks of one, and how it gets there with a token.

The token is read from the environment and goes into a header of requests to the host's API, nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from slipway.contracts.errors import UsageError
from slipway.serving.promotion.address import HostKind, RepositoryAddress, api_address

if TYPE_CHECKING:
    from slipway.contracts.project.promotion import PromotionSpec

TOKEN = "SLIPWAY_GIT_TOKEN"  # noqa: S105 - a variable's name


@dataclass(frozen=True)
class PullRequest:
    """A pull request, or GitLab's merge request. `url` is its page."""

    number: int
    url: str
    state: Literal["open", "merged", "closed"]


class Host(Protocol):
    """What promotion asks of a host. Every method raises ServiceError when the host refuses or does not answer."""

    def login(self) -> str | None:
        """Returns whose token it is; None where the host does not say (a token of a CI job)."""

    def find(self, branch: str, base: str) -> PullRequest | None:
        """Returns the pull request of a branch: an open one before others, the newest of these."""

    def open(self, title: str, body: str, branch: str, base: str) -> PullRequest:
        """Opens the pull request of a branch, or returns the one that is open already."""

    def approve(self, number: int, commit: str) -> None:
        """Approves a pull request as it is at a commit, in the name of the token's owner."""


def host_of(
    spec: PromotionSpec, address: RepositoryAddress | None, variables: Mapping[str, str] | None = None
) -> tuple[HostKind | None, Host | None]:
    """Returns what kind of host a repository is on, and the host, or None where no token or no API is known.

    Args:
        spec: May name kind and API.
        address: Of the repository; None for one in a folder.
        variables: The environment.

    Raises:
        UsageError: The project names an API without its kind.
    """
    environment = os.environ if variables is None else variables
    kind = spec.host or (address.kind if address is not None else None)
    if spec.api is not None and kind is None:
        raise UsageError(
            "the kind of the Git host is not known", where="promotion.api", remedy="Write host: github, or gitlab."
        )
    token = token_for(kind, address, environment)
    if kind is None or address is None or token is None:
        return kind, None
    api = (spec.api or api_address(kind, address)).rstrip("/")
    if kind == "github":
        from slipway.serving.promotion.github import GitHub

        return kind, GitHub(api, address.path, token)
    from slipway.serving.promotion.gitlab import GitLab

    return kind, GitLab(api, address.path, token)


def token_for(kind: HostKind | None, address: RepositoryAddress | None, variables: Mapping[str, str]) -> str | None:
    """Returns the token of a host from the environment.

    SLIPWAY_GIT_TOKEN is for whatever host the project names. The hosts' own variables are used as their own programs
    use them, for the host that they belong to, so that a project cannot send one of them elsewhere.
    """
    names = [TOKEN]
    host = address.host if address is not None else ""
    if kind == "github":
        if host == "github.com":
            names += ["GH_TOKEN", "GITHUB_TOKEN"]
        elif variables.get("GITHUB_SERVER_URL", "").partition("://")[2] == host:
            names += ["GITHUB_TOKEN"]
        elif variables.get("GH_HOST") == host:
            names += ["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"]
    elif kind == "gitlab" and host in ("gitlab.com", variables.get("CI_SERVER_HOST"), variables.get("GITLAB_HOST")):
        names += ["GITLAB_TOKEN"]
    return next((variables[name].strip() for name in names if variables.get(name, "").strip()), None)
