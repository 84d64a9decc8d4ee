"""What a promotion says, leaves and finds again when the remote or the host does not play along."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from git_forge import candidate, git

from slipway.contracts.errors import EnvironmentProblemError, ServiceError
from slipway.serving.promotion.address import parse_address
from slipway.serving.promotion.hosts import token_for
from slipway.serving.promotion.repository import BranchMovedError

if TYPE_CHECKING:
    from git_forge import Forge


def hook(repository: Path, name: str, script: str) -> Path:
    path = repository / "hooks" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_push_that_a_protected_branch_refuses_is_told_in_the_remotes_words(github: Forge) -> None:
    refusing = hook(github.bare, "pre-receive", "echo 'GH013: Repository rule violations found' >&2; exit 1")
    with pytest.raises(
        ServiceError, match="pre-receive hook declined.*GH013: Repository rule violations found"
    ) as told:
        github.promoter().promote(candidate(1), "staging")
    assert "slipway/" in str(told.value.remedy)
    assert github.branches() == ["main"]
    assert github.host.requests == []
    refusing.unlink()
    assert github.promoter().promote(candidate(1), "staging").status == "opened"


def test_a_branch_that_appears_between_look_and_push_is_found_not_overwritten(github: Forge) -> None:
    ada, grace = github.promoter("ada"), github.promoter("grace")
    push = ada.repository.push
    raced: list[str] = []

    def late(commit: str, branch: str, *, expected: str | None) -> str:
        if not raced:
            raced.append(str(grace.promote(candidate(1), "staging").commit))
        return push(commit, branch, expected=expected)

    object.__setattr__(ada.repository, "push", late)
    outcome = ada.promote(candidate(1), "staging")
    assert (outcome.status, outcome.commit) == ("exists", raced[0])
    assert len(github.host.requests) == 1


def test_a_push_onto_a_branch_that_moved_is_no_fast_forward_and_refused(github: Forge) -> None:
    promoter = github.promoter()
    outcome = promoter.promote(candidate(1), "staging")
    repository = promoter.repository
    base = git(github.bare, "rev-parse", "main").strip()
    other = repository.commit(base, {"manifests/x": "x"}, "other")
    with pytest.raises(BranchMovedError):
        repository.push(other, str(outcome.branch), expected=base)
    with pytest.raises(BranchMovedError):
        repository.push(other, str(outcome.branch), expected=None)
    assert git(github.bare, "rev-parse", str(outcome.branch)).strip() == outcome.commit


def test_a_wrong_token_ends_the_command_before_anything_is_pushed(forge: Forge) -> None:
    wrong = "-".join(["token", "of", "nobody"])
    with pytest.raises(ServiceError, match=r"refuses the token \(401") as told:
        forge.promoter(token=wrong).promote(candidate(1), "staging")
    assert wrong not in f"{told.value} {told.value.to_dict()} {''.join(traceback.format_exception(told.value))}"
    assert forge.branches() == ["main"]


def test_a_token_without_the_right_leaves_the_branch_and_the_next_run_finds_it(forge: Forge) -> None:
    forge.host.may_write = False
    with pytest.raises(ServiceError, match=r"is pushed, but its pull request is not open: .*\(403") as told:
        forge.promoter().promote(candidate(1), "staging")
    assert "or open it yourself: https://" in str(told.value.remedy)
    assert len(forge.branches()) == 2
    forge.host.may_write = True
    assert forge.promoter().promote(candidate(1), "staging").status == "opened"
    assert len(forge.host.requests) == 1
    assert len(forge.branches()) == 2


def test_a_repository_that_the_token_cannot_see_is_told(github: Forge) -> None:
    promoter = github.promoter()
    promoter.host.root = "/repos/acme/other"  # type: ignore[union-attr]
    with pytest.raises(ServiceError, match=r"knows no such repository, or the token may not see it \(404"):
        promoter.promote(candidate(1), "staging")


def test_a_host_that_is_down_costs_the_pull_request_and_not_the_branch(github: Forge) -> None:
    promoter = github.promoter(api="http://127.0.0.1:9/api/v3")
    with pytest.raises(ServiceError, match=r"is pushed, but .* does not answer \(ConnectError\)"):
        promoter.promote(candidate(1), "staging")
    assert "GitHub does not answer (ConnectError); going on as far as git goes" in github.progress
    assert len(github.branches()) == 2
    assert github.promoter().promote(candidate(1), "staging").status == "opened"


def test_a_host_that_stumbles_is_asked_again_where_that_is_safe(github: Forge) -> None:
    github.host.faults["GET"] += [503, 502]
    assert github.promoter().promote(candidate(1), "staging").status == "opened"


def test_an_answer_that_was_lost_does_not_make_a_second_pull_request(forge: Forge) -> None:
    forge.host.lost = 1
    outcome = forge.promoter().promote(candidate(1), "staging")
    assert outcome.status == "opened"
    assert outcome.pull_request is not None
    assert len(forge.host.requests) == 1


def test_a_rate_limit_says_when_to_come_back(github: Forge) -> None:
    github.host.faults["POST"] += [429]
    with pytest.raises(ServiceError, match=r"wants fewer requests \(429: API rate limit exceeded") as told:
        github.promoter().promote(candidate(1), "staging")
    assert "Run the command again in a minute" in str(told.value.remedy)


def test_git_without_a_name_is_told_how_to_get_one(github: Forge) -> None:
    promoter = github.promoter()
    for name in ("name", "email"):
        git(github.checkout, "config", "--unset", f"user.{name}")
    git(github.checkout, "config", "user.useConfigOnly", "true")
    with pytest.raises(EnvironmentProblemError, match="git does not know who you are"):
        promoter.promote(candidate(1), "staging")
    assert github.branches() == ["main"]


def test_credentials_in_an_address_are_never_shown(github: Forge) -> None:
    address = "https://ada:secret@127.0.0.1:9/acme/models.git"
    git(github.checkout, "remote", "set-url", "origin", address)
    with pytest.raises(ServiceError) as told:
        github.promoter().promote(candidate(1), "staging")
    assert "secret" not in f"{told.value} {told.value.to_dict()}"


@pytest.mark.parametrize(
    ("kind", "address", "variables", "token"),
    [
        ("github", "https://github.com/a/b", {"GH_TOKEN": "1"}, "1"),
        ("github", "https://github.com/a/b", {"GITHUB_TOKEN": "2", "SLIPWAY_GIT_TOKEN": "3"}, "3"),
        ("github", "https://github.evil.example/a/b", {"GH_TOKEN": "1", "GITHUB_TOKEN": "2"}, None),
        ("github", "https://ghe.example/a/b", {"GITHUB_TOKEN": "2", "GITHUB_SERVER_URL": "https://ghe.example"}, "2"),
        ("gitlab", "git@gitlab.com:a/b.git", {"GITLAB_TOKEN": "4"}, "4"),
        ("gitlab", "https://gitlab.evil.example/a/b", {"GITLAB_TOKEN": "4"}, None),
        ("gitlab", "https://git.example/a/b", {"GITLAB_TOKEN": "4", "CI_SERVER_HOST": "git.example"}, "4"),
        (None, "https://git.example/a/b", {"GITHUB_TOKEN": "2", "GITLAB_TOKEN": "4"}, None),
    ],
)
def test_a_hosts_own_variable_is_for_that_host_alone(kind, address, variables, token) -> None:  # type: ignore[no-untyped-def]
    assert token_for(kind, parse_address(address), variables) == token


def test_nothing_secret_stays_in_the_repository(github: Forge) -> None:
    github.promoter().promote(candidate(1), "staging")
    for folder in (github.bare, github.checkout):
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"token-of-ada" not in path.read_bytes(), path
