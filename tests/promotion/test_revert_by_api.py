"""The operator brings Git back to what serves without a checkout and without the git program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from git_forge import ADDRESS, candidate, git, version

from slipway.contracts.errors import PromotionError, ServiceError, UsageError
from slipway.serving.promotion.address import parse_address
from slipway.serving.promotion.approval import approve
from slipway.serving.promotion.from_cluster import files_of, propose_revert
from slipway.serving.promotion.hosts import host_of
from slipway.serving.promotion.promote import Promoter

if TYPE_CHECKING:
    from git_forge import Forge

    from slipway.serving.promotion.candidate import Outcome

TOKEN = {"SLIPWAY_GIT_TOKEN": "token-of-ada"}


def went_back(forge: Forge) -> dict[str, Any]:
    """Has staging promote versions 1 and 2, and returns the Rollout after version 2 went back."""
    for number in (1, 2):
        forge.merge(str(forge.promoter().promote(candidate(number), "staging").branch))
    rollout: dict[str, Any] = yaml.safe_load(forge.read("staging/rollout.yaml"))
    return rollout | {"status": {"phase": "RolledBack", "stable": "films-v1"}}


def revert(forge: Forge, rollout: dict[str, Any], **changes: Any) -> Outcome:
    settings = {"host": forge.kind, "api": forge.host.address, "variables": TOKEN} | changes
    return propose_revert(rollout, repository=ADDRESS[forge.kind], reason="clicks fell", **settings)


def by_api(forge: Forge, token: str = "token-of-ada") -> Promoter:
    address = parse_address(ADDRESS[forge.kind])
    kind, host = host_of(forge.spec, address, {"SLIPWAY_GIT_TOKEN": token})
    assert kind is not None
    assert host is not None
    assert address is not None
    return Promoter(files_of(kind, host, address), forge.spec, kind=kind, address=address, host=host)


def test_a_rollout_that_went_back_gets_its_pull_request_by_api_alone(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = went_back(forge)
    with monkeypatch.context() as without_git:
        from slipway.serving.promotion import git as git_program

        without_git.setattr(git_program.subprocess, "run", _real_run_of_the_host_only(git_program.subprocess.run))
        outcome = revert(forge, rollout)
    assert outcome.status == "opened"
    assert "-    version: '2'" in outcome.diff
    changed = git(forge.bare, "diff", "--name-only", "main", str(outcome.branch)).split()
    assert changed == [f"manifests/models/films/staging/{name}" for name in ("audit.jsonl", "rollout.yaml")]
    again = revert(forge, rollout)
    assert (again.status, again.pull_request) == ("exists", outcome.pull_request)
    forge.merge(str(outcome.branch))
    assert revert(forge, rollout).status == "current"
    assert json.loads(forge.read("staging/audit.jsonl").splitlines()[-1])["login"] == "ada"
    # What the API wrote, the git program reads, and goes on from.
    assert forge.promoter().promote(candidate(3), "staging").status == "opened"


def _real_run_of_the_host_only(run: Any) -> Any:
    def only(command: list[str], *arguments: Any, **options: Any) -> Any:
        # The stand-in keeps its files with git too; promotion's own calls are made with an explicit check=False.
        assert options.get("check", True) is not False, command
        return run(command, *arguments, **options)

    return only


def test_promotion_and_approval_work_by_api_too(forge: Forge) -> None:
    went_back(forge)
    outcome = by_api(forge).promote(candidate(3), "staging")
    assert outcome.status == "opened"
    assert by_api(forge).promote(candidate(3), "staging").status == "exists"
    forge.host.users["token-of-grace"] = "grace"
    approved = approve(by_api(forge, "token-of-grace"), "films", "staging")
    assert (approved.status, approved.approvals, approved.notes) == ("approved", 1, ())
    assert [review["by"] for review in forge.host.requests[-1].reviews] == ["grace"]
    assert git(forge.bare, "rev-parse", str(outcome.branch)).strip() == approved.commit


def test_of_two_operators_one_makes_the_branch_and_both_report_it(github: Forge) -> None:
    went_back(github)
    first, second = by_api(github), by_api(github)
    push = first.repository.push

    def late(commit: str, branch: str, *, expected: str | None) -> str:
        if not github.host.head(branch):
            second.revert("films", "staging", version(1))
        return push(commit, branch, expected=expected)

    first.repository.push = late  # type: ignore[method-assign]
    assert first.revert("films", "staging", version(1)).status == "exists"
    assert len([request for request in github.host.requests if request.state == "open"]) == 1


def test_what_the_operator_cannot_do_is_told(github: Forge) -> None:
    rollout = went_back(github)
    with pytest.raises(UsageError, match="there is no token"):
        revert(github, rollout, variables={})
    with pytest.raises(UsageError, match="on no host that is known"):
        propose_revert(rollout, repository="/srv/models.git", variables=TOKEN)
    with pytest.raises(ServiceError, match=r"refuses the token \(401"):
        revert(github, rollout, variables={"SLIPWAY_GIT_TOKEN": "other"})
    github.host.may_write = False
    with pytest.raises(ServiceError, match=r"does not let this token do that \(403"):
        revert(github, rollout)
    del rollout["metadata"]["annotations"]
    with pytest.raises(PromotionError, match=r"no annotation slipway\.dev/environment"):
        revert(github, rollout)
