"""The revert pull request as the operator opens it: from a Rollout's status, by the host's API, without git.

    propose_revert(rollout, repository="https://github.com/acme/models", reason="clicks fell by 4 %")

The repository is the operator's own setting and never read from the Rollout: whoever may write a Rollout must not
decide where the token goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from slipway.contracts.errors import PromotionError, UsageError
from slipway.contracts.project.promotion import PromotionSpec
from slipway.serving.promotion.address import HostKind, RepositoryAddress, parse_address
from slipway.serving.promotion.candidate import Outcome
from slipway.serving.promotion.hosts import TOKEN, Host, host_of
from slipway.serving.promotion.manifests import ENVIRONMENT
from slipway.serving.promotion.promote import Promoter
from slipway.serving.promotion.repository import PromotionRepository
from slipway.serving.promotion.served import served_version


def propose_revert(
    rollout: Mapping[str, Any],
    *,
    repository: str,
    host: Literal["github", "gitlab"] | None = None,
    api: str | None = None,
    branch: str | None = None,
    directory: str = "manifests/models",
    reason: str | None = None,
    variables: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Opens the pull request that brings Git back to the version that serves; finds it where it is open already.

    Args:
        rollout: The object, with its status.
        repository: Address of the repository with the manifests.
        host: What the address does not say.
        api: Address of the host's API, where it is not the usual one.
        branch: Where the pull request goes; by default the main branch.
        directory: Folder of the manifests.
        reason: Why the rollout went back.
        variables: The environment, with the token.
        progress: Is told each step.

    Raises:
        UsageError: The address names no repository on a known host, or there is no token.
        PromotionError: The Rollout was not promoted by Slipway, or Git never named what serves.
        ServiceError: The host refuses, or does not answer.
    """
    environment = (rollout["metadata"].get("annotations") or {}).get(ENVIRONMENT)
    if not environment:
        raise PromotionError(
            f"the Rollout has no annotation {ENVIRONMENT}, so its folder in Git is not known",
            where=str(rollout["metadata"]["name"]),
            remedy="`slipway promote` writes it; add it to rollout.yaml.",
        )
    document = {"host": host, "api": api, "branch": branch, "directory": directory}
    spec = PromotionSpec.model_validate(document | {"environments": [{"name": environment}]})
    address = parse_address(repository)
    kind, found = host_of(spec, address, os.environ if variables is None else variables)
    if address is None or kind is None:
        raise UsageError(f"{repository!r} is on no host that is known", remedy="Name host: github, or gitlab.")
    if found is None:
        raise UsageError("there is no token for the Git host", remedy=f"Set {TOKEN}.")
    files = files_of(kind, found, address)
    promoter = Promoter(files, spec, kind=kind, address=address, host=found, progress=progress)
    model = str(rollout["spec"]["model"]["name"])
    serving = served_version(files, spec, model, environment, rollout)
    return promoter.revert(model, environment, serving, reason=reason)


def files_of(kind: HostKind, host: Host, address: RepositoryAddress) -> PromotionRepository:
    """Returns a repository that is read and changed by its host's API, in the name of the token's owner."""
    login = host.login() or "slipway"
    committer = f"{login} <{login}@{address.host}>"
    if kind == "github":
        from slipway.serving.promotion.github import GitHub
        from slipway.serving.promotion.github_files import GitHubRepository

        assert isinstance(host, GitHub)
        return GitHubRepository(host.api, host.root, address.page, committer)
    from slipway.serving.promotion.gitlab import GitLab
    from slipway.serving.promotion.gitlab_files import GitLabRepository

    assert isinstance(host, GitLab)
    return GitLabRepository(host.api, host.root, address.page, committer)
