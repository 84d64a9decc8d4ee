"""Approvals are lines of the audit file, by others than who asked, and the check counts them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from git_forge import candidate, environments, git, version

from slipway.contracts.errors import PromotionError, UsageError
from slipway.contracts.project.promotion import PromotionSpec
from slipway.serving.promotion.approval import approve
from slipway.serving.promotion.check import Finding, check_change
from slipway.serving.promotion.git import checkout_of
from slipway.serving.promotion.served import served_version

if TYPE_CHECKING:
    from git_forge import Forge

GRACE = "token-of-grace"
TWO_EYES = PromotionSpec.model_validate({"environments": environments(approvals=1)})


def check(forge: Forge, branch: str | None) -> list[Finding]:
    """Judges a branch as CI does: in a checkout of its own."""
    work = forge.checkout_of("ci")
    git(work, "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*")
    return check_change(checkout_of(work, "origin"), TWO_EYES, "origin/main", f"origin/{branch}")


def proposed(forge: Forge) -> str:
    """Has staging promote version 1, and Ada propose it for production."""
    outcome = forge.promoter().promote(candidate(1), "staging")
    forge.merge(str(outcome.branch))
    forge.host.users[GRACE] = "grace"
    outcome = forge.promoter(environments=TWO_EYES.environments).promote(candidate(1), "production")
    assert outcome.approvals_needed == 1
    return str(outcome.branch)


def test_an_approval_is_a_line_of_the_proposal_and_a_review_at_the_host(forge: Forge) -> None:
    branch = proposed(forge)
    assert "approvals are needed and 0 given" in check(forge, branch)[0].problems[0]
    promoter = forge.promoter("grace", GRACE, environments=TWO_EYES.environments)
    outcome = approve(promoter, "films", "production", reason="looks good")
    assert (outcome.status, outcome.approvals) == ("approved", 1)
    first, second = (json.loads(line) for line in forge.read("production/audit.jsonl", branch).splitlines())
    assert (second["action"], second["login"], second["wanted"]) == ("approve", "grace", first["wanted"])
    assert [review["by"] for review in forge.host.requests[-1].reviews] == ["grace"]
    assert check(forge, branch) == [Finding("films", "production", "promote", "1", 1)]
    again = approve(promoter, "films", "production")
    assert (again.status, again.approvals) == ("exists", 1)


def test_nobody_approves_their_own_proposal_by_name_or_by_token(github: Forge) -> None:
    proposed(github)
    for who, token in (("ada", GRACE), ("grace", "token-of-ada"), ("ada", None)):
        with pytest.raises(PromotionError, match="made this proposal and cannot approve it"):
            approve(github.promoter(who, token), "films", "production")
    with pytest.raises(UsageError, match="no proposal of version 7 is open"):
        approve(github.promoter("grace", GRACE), "films", "production", "7")


def test_two_approvals_of_one_person_are_one(github: Forge) -> None:
    branch = proposed(github)
    approve(github.promoter("grace", GRACE), "films", "production")
    again = approve(github.promoter("grace", None), "films", "production")
    assert (again.status, again.approvals) == ("exists", 1)
    other = approve(github.promoter("linus", None), "films", "production")
    assert (other.status, other.approvals) == ("approved", 2)
    assert len(github.read("production/audit.jsonl", branch).splitlines()) == 3


def commit_on(forge: Forge, branch: str, path: str, old: str, new: str) -> str:
    """Changes a file on a branch by hand."""
    work = forge.checkout_of("hand")
    git(work, "fetch", "--quiet", "origin")
    git(work, "checkout", "--quiet", "-B", "by-hand", f"origin/{branch}")
    file = work / "manifests/models/films" / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    git(work, "commit", "--quiet", "-am", "by hand")
    git(work, "push", "--quiet", "--force", "origin", "HEAD:by-hand")
    return "by-hand"


def test_the_check_sees_what_was_changed_around_slipway(github: Forge) -> None:
    branch = proposed(github)
    by_hand = commit_on(github, "main", "staging/rollout.yaml", "version: '1'", "version: '9'")
    assert "the version was changed by hand" in check(github, by_hand)[0].problems[0]
    by_hand = commit_on(github, branch, "production/audit.jsonl", '"by":"Ada', '"by":"Eve')
    assert check(github, by_hand)[0].problems == (
        "1 approvals are needed and 0 given: slipway promote films --to production --version 1 --approve",
    )
    by_hand = commit_on(github, "main", "staging/audit.jsonl", '"by":"Ada', '"by":"Eve')
    assert check(github, by_hand)[0].problems == ("lines of the audit file were changed or taken out",)
    by_hand = commit_on(github, "main", "staging/rollout.yaml", "minimum_dwell: 3s", "minimum_dwell: 1h")
    assert check(github, by_hand) == [
        Finding("films", "staging", "edit", "1", 0, notes=("the version stays; other fields change",))
    ]
    by_hand = commit_on(github, "main", "staging/rollout.yaml", "gateway:", "gatway:")
    assert "spec.traffic.gateway: Field required".lower() in check(github, by_hand)[0].problems[0].lower()


def test_the_check_holds_the_order_and_lets_the_way_back_pass(github: Forge) -> None:
    proposed(github)
    forced = github.promoter().promote(candidate(2), "production", force=True, reason="hotfix")
    (finding,) = check(github, forced.branch)
    assert finding.notes == ("forced by Ada <ada@example.com> (hotfix): staging has not promoted films version 2",)
    assert "approvals are needed" in finding.problems[0]
    github.merge(str(forced.branch))
    back = github.promoter().revert("films", "production", version(1))
    assert check(github, back.branch) == [Finding("films", "production", "revert", "1", 0)]


def test_the_version_that_serves_is_read_from_the_rollouts_status(github: Forge) -> None:
    for number in (1, 2):
        github.merge(str(github.promoter().promote(candidate(number), "staging").branch))
    promoter = github.promoter()
    rollout = {"metadata": {"name": "films"}, "status": {"phase": "RolledBack", "stable": "films-v1"}}
    assert served_version(promoter.repository, promoter.spec, "films", "staging", rollout) == version(1)
    rollout["status"]["stable"] = "films-v7"
    with pytest.raises(PromotionError, match="films-v7 serves, and Git never named that version"):
        served_version(promoter.repository, promoter.spec, "films", "staging", rollout)
    with pytest.raises(PromotionError, match="no stable version"):
        served_version(promoter.repository, promoter.spec, "films", "staging", {"metadata": {"name": "films"}})
