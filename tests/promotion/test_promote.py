"""A version goes to an environment by one pull request, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from git_forge import POLICY, candidate, environments, git, version

from slipway.contracts.errors import GateError, PromotionError, ServiceError, UsageError
from slipway.contracts.project.promotion import PromotionSpec
from slipway.contracts.rollout.resource import RolloutResource

if TYPE_CHECKING:
    from git_forge import Forge


def staged(forge: Forge, number: int = 1) -> None:
    """Has staging promote a version, and somebody merge that."""
    outcome = forge.promoter().promote(candidate(number), "staging")
    assert outcome.branch is not None
    forge.merge(outcome.branch)


def test_a_promotion_is_one_pull_request_that_changes_one_folder(forge: Forge) -> None:
    outcome = forge.promoter().promote(candidate(1), "staging")
    assert outcome.status == "opened"
    assert outcome.branch == f"slipway/films/staging/v1-{version(1).digest[:8]}"
    (request,) = forge.host.requests
    assert (request.branch, request.base, request.title) == (
        outcome.branch,
        "main",
        "Promote films version 1 to staging",
    )
    changed = git(forge.bare, "diff", "--name-only", "main", outcome.branch).split()
    assert changed == [
        f"manifests/models/films/staging/{name}" for name in ("audit.jsonl", "kustomization.yaml", "rollout.yaml")
    ]
    rollout = yaml.safe_load(forge.read("staging/rollout.yaml", outcome.branch))
    spec = RolloutResource.model_validate(rollout["spec"])
    assert (spec.model.name, spec.model.version, spec.model.digest) == ("films", "1", version(1).digest)
    assert rollout["spec"]["policy"] == POLICY
    kustomization = yaml.safe_load(forge.read("staging/kustomization.yaml", outcome.branch))
    assert (kustomization["namespace"], kustomization["resources"]) == ("staging", ["rollout.yaml"])


def test_the_pull_request_shows_metrics_beside_the_present_ones_gates_lineage_and_card(
    github: Forge,
) -> None:
    staged(github, 1)
    promoter = github.promoter()
    known = {version(1).digest: candidate(1).quality}
    promoter.promote(candidate(2), "staging", quality_of=lambda present: known.get(present.digest))
    body = github.host.requests[-1].body
    assert "| ndcg@10 | 0.3100 | 0.3200 | +0.0100 |" in body
    assert "| auc | - | - | - |" in body
    assert "| ndcg@10 >= 0.05 | met |" in body
    assert "| git commit | `abc123` |" in body
    assert "Version 2, for @everyone." in body
    assert "| takes the place of | 1 (" in body


def test_the_users_working_tree_index_branches_and_fetched_state_are_as_they_were(github: Forge) -> None:
    work = github.checkout
    (work / "README.md").write_text("half-done\n")
    (work / "new.txt").write_text("staged\n")
    git(work, "add", "new.txt")

    def state() -> tuple[str, ...]:
        index = (work / ".git" / "index").read_bytes().hex()
        branches = git(work, "for-each-ref", "refs/heads", "refs/tags", "refs/remotes/origin/main")
        return git(work, "status", "--porcelain"), branches, git(work, "worktree", "list"), index

    git(github.checkout_of("grace"), "commit", "--quiet", "--allow-empty", "-m", "main goes on")
    git(github.checkout_of("grace"), "push", "--quiet", "origin", "HEAD:main")
    before = state()
    github.promoter().promote(candidate(1), "staging")
    assert state() == before
    assert not (work / ".git" / "FETCH_HEAD").exists()
    assert (work / "README.md").read_text() == "half-done\n"


def test_only_the_version_changes_later_and_what_the_user_wrote_stays(github: Forge) -> None:
    staged(github, 1)
    work = github.checkout_of("grace")
    git(work, "pull", "--quiet")
    folder = work / "manifests/models/films/staging"
    edited = (folder / "rollout.yaml").read_text().replace("kind: Rollout\n", "kind: Rollout   # ours: ask Grace\n")
    edited = edited.replace("  labels:\n", "  annotations: {team: search}   # foreign\n  labels:\n")
    (folder / "rollout.yaml").write_text(edited)
    (folder / "kustomization.yaml").write_text("# own\nresources:\n- rollout.yaml   # first\n- monitor.yaml\n")
    (folder / "monitor.yaml").write_text("kind: ConfigMap\n")
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "ours")
    git(work, "push", "--quiet", "origin", "HEAD:main")
    outcome = github.promoter().promote(candidate(2), "staging")
    changed = [line for line in outcome.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    manifest = [line for line in changed if not line.startswith("+{")]
    assert [line[0] for line in manifest] == ["-", "-", "-", "+", "+", "+"]
    assert all(line[1:].strip().partition(":")[0] in ("version", "uri", "digest") for line in manifest)
    after = github.read("staging/rollout.yaml", str(outcome.branch))
    assert "# ours: ask Grace" in after
    assert "annotations: {team: search}   # foreign" in after
    assert github.read("staging/kustomization.yaml", str(outcome.branch)).startswith("# own\n")


def test_the_same_version_is_never_proposed_twice(forge: Forge) -> None:
    first = forge.promoter().promote(candidate(1), "staging")
    again = forge.promoter().promote(candidate(1), "staging")
    elsewhere = forge.promoter("grace").promote(candidate(1), "staging")
    assert [again.status, elsewhere.status] == ["exists", "exists"]
    assert again.pull_request == first.pull_request == elsewhere.pull_request
    assert len(forge.host.requests) == 1
    forge.merge(str(first.branch), squash=True)
    merged = forge.promoter().promote(candidate(1), "staging")
    assert merged.status == "current"
    assert forge.branches() == ["main", first.branch]


def test_without_a_token_the_branch_is_pushed_and_the_page_to_open_is_told(forge: Forge) -> None:
    outcome = forge.promoter(token=None).promote(candidate(1), "staging")
    assert outcome.status == "pushed"
    assert outcome.branch in forge.branches()
    assert forge.host.asked == []
    assert outcome.open_page is not None
    where = "compare/main..." if forge.kind == "github" else "-/merge_requests/new?"
    assert outcome.open_page.startswith(f"https://{forge.kind}.example/acme/models/{where}")
    # With a token, the next run opens what is missing.
    assert forge.promoter().promote(candidate(1), "staging").status == "opened"


def test_a_dry_run_shows_the_difference_and_asks_and_changes_nothing(github: Forge) -> None:
    before = git(github.bare, "for-each-ref")
    outcome = github.promoter().promote(candidate(1), "staging", dry_run=True)
    assert outcome.status == "dry-run"
    assert "+  model:" in outcome.diff
    assert git(github.bare, "for-each-ref") == before
    assert github.host.asked == []


def test_a_folder_with_changes_that_are_not_committed_is_refused(github: Forge) -> None:
    folder = github.checkout / "manifests/models/films/staging"
    folder.mkdir(parents=True)
    (folder / "rollout.yaml").write_text("mine\n")
    with pytest.raises(PromotionError, match=r"not committed: manifests/models/films/staging/rollout\.yaml"):
        github.promoter().promote(candidate(1), "staging")
    assert github.branches() == ["main"]
    # Changes elsewhere do not matter.
    (folder / "rollout.yaml").rename(github.checkout / "elsewhere.yaml")
    assert github.promoter().promote(candidate(1), "staging").status == "opened"


def test_production_takes_what_staging_has_promoted_and_nothing_else(github: Forge) -> None:
    with pytest.raises(PromotionError, match="staging has not promoted films version 1"):
        github.promoter().promote(candidate(1), "production")
    open_only = github.promoter().promote(candidate(1), "staging")
    with pytest.raises(PromotionError, match="staging has not promoted"):
        github.promoter().promote(candidate(1), "production")
    github.merge(str(open_only.branch))
    with pytest.raises(PromotionError, match="staging has not promoted films version 2"):
        github.promoter().promote(candidate(2), "production")
    outcome = github.promoter().promote(candidate(1), "production")
    assert outcome.status == "opened"
    assert "Came to `staging` on 2026-01-01" in github.host.requests[-1].body
    assert yaml.safe_load(github.read("production/kustomization.yaml", str(outcome.branch)))["namespace"] == "films"


def test_what_went_back_in_staging_does_not_go_to_production(github: Forge) -> None:
    staged(github, 1)
    staged(github, 2)
    reverted = github.promoter().revert("films", "staging", version(1))
    github.merge(str(reverted.branch))
    with pytest.raises(PromotionError, match="staging has not promoted films version 2"):
        github.promoter().promote(candidate(2), "production")
    assert github.promoter().promote(candidate(1), "production").status == "opened"


def test_a_gate_that_is_not_met_refuses_with_its_numbers(github: Forge) -> None:
    with pytest.raises(GateError, match=r"gates: ndcg@10 >= 0.05: ndcg@10 is 0.0100, at least 0.05 is required"):
        github.promoter().promote(candidate(1, passed=False), "staging")
    assert github.branches() == ["main"]


def test_force_needs_a_reason_and_writes_down_what_was_overridden(github: Forge) -> None:
    with pytest.raises(UsageError, match="needs a reason"):
        github.promoter().promote(candidate(1, passed=False), "production", force=True)
    outcome = github.promoter().promote(candidate(1, passed=False), "production", force=True, reason="hotfix | Ada")
    assert len(outcome.forced) == 2
    line = json.loads(github.read("production/audit.jsonl", str(outcome.branch)))
    assert line["reason"] == "hotfix | Ada"
    assert line["forced"] == list(outcome.forced)
    assert "> **Forced** by `Ada <ada@example.com>`: hotfix | Ada" in github.host.requests[-1].body


def test_the_audit_line_says_who_when_what_and_which_bundle(github: Forge) -> None:
    outcome = github.promoter().promote(candidate(1), "staging", reason="weekly")
    line = json.loads(github.read("staging/audit.jsonl", str(outcome.branch)))
    assert line == {
        "action": "promote",
        "proposal": outcome.branch,
        "model": "films",
        "environment": "staging",
        "wanted": {"version": "1", "digest": version(1).digest, "uri": version(1).uri},
        "at": "2026-01-01T00:00:00Z",
        "by": "Ada <ada@example.com>",
        "login": "ada",
        "reason": "weekly",
        "gates": ["ndcg@10 >= 0.05: met"],
    }
    trailers = git(github.bare, "log", "-1", "--format=%(trailers:key=Slipway-Digest,valueonly)", str(outcome.branch))
    assert trailers.strip() == version(1).digest


def test_two_promotions_at_the_same_moment_make_one_pull_request(github: Forge) -> None:
    promoters = [github.promoter(who) for who in ("ada", "grace", "ada", "grace")]
    ready = threading.Barrier(len(promoters))
    found: list[str] = []

    def run(index: int) -> None:
        ready.wait()
        found.append(promoters[index].promote(candidate(1), "staging").status)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(promoters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Whoever loses the race for the branch may still be the one who opens its pull request.
    assert len(found) == 4
    assert set(found) <= {"opened", "exists"}
    assert len(github.host.requests) == 1
    assert len(github.branches()) == 2


def test_two_versions_are_proposed_side_by_side_and_told_of_each_other(github: Forge) -> None:
    first = github.promoter().promote(candidate(1), "staging")
    second = github.promoter().promote(candidate(2), "staging")
    assert second.notes == (f"another proposal is open for staging: {first.branch}",)
    github.merge(str(second.branch))
    stale = github.promoter().promote(candidate(1), "staging")
    assert stale.status == "exists"
    assert "main has changed since: close it, delete its branch, and promote again" in stale.notes


def test_a_version_that_was_merged_and_left_again_can_be_proposed_again(github: Forge) -> None:
    for number in (1, 2, 1, 2):
        outcome = github.promoter().promote(candidate(number), "staging")
        assert outcome.status == "opened"
        github.merge(str(outcome.branch))
    names = [branch for branch in github.branches() if branch != "main"]
    assert sorted(name.rpartition("-")[2] for name in names if name.count("-") == 2) == ["2", "2"]
    assert json.loads(github.read("staging/audit.jsonl").splitlines()[-1])["wanted"]["version"] == "2"


def test_a_proposal_that_was_turned_down_is_reported_and_not_opened_anew(forge: Forge) -> None:
    forge.promoter().promote(candidate(1), "staging")
    forge.host.close(1, merged=False)
    again = forge.promoter().promote(candidate(1), "staging")
    assert (again.status, again.state) == ("exists", "closed")
    assert "it was closed without being merged" in again.notes[-1]
    assert len(forge.host.requests) == 1


def test_a_revert_brings_git_back_to_the_version_that_serves(github: Forge) -> None:
    staged(github, 1)
    staged(github, 2)
    outcome = github.promoter().revert("films", "staging", version(1), reason="clicks fell")
    assert outcome.status == "opened"
    assert github.host.requests[-1].title == "Revert films in staging to version 1, which serves"
    assert "Reason: clicks fell" in github.host.requests[-1].body
    assert github.promoter().revert("films", "staging", version(1)).status == "exists"
    github.merge(str(outcome.branch), squash=True)
    rollout = yaml.safe_load(github.read("staging/rollout.yaml"))
    assert rollout["spec"]["model"]["digest"] == version(1).digest
    assert github.promoter().revert("films", "staging", version(1)).status == "current"
    assert [json.loads(line)["action"] for line in github.read("staging/audit.jsonl").splitlines()] == [
        "promote",
        "promote",
        "revert",
    ]


def test_nothing_can_be_reverted_where_nothing_was_promoted(github: Forge) -> None:
    with pytest.raises(PromotionError, match="nothing was promoted to staging yet"):
        github.promoter().revert("films", "staging", version(1))


def test_unknown_environments_and_odd_names_are_wrong_use(github: Forge) -> None:
    with pytest.raises(UsageError, match="no environment 'moon'"):
        github.promoter().promote(candidate(1), "moon")
    bare = PromotionSpec.model_validate({"environments": [{"name": "staging"}]})
    with pytest.raises(UsageError, match="where requests come in"):
        github.promoter(environments=bare.environments).promote(candidate(1), "staging")


def test_a_manifest_that_somebody_broke_is_named_and_not_overwritten(github: Forge) -> None:
    staged(github, 1)
    work = github.checkout_of("grace")
    git(work, "pull", "--quiet")
    path = work / "manifests/models/films/staging/rollout.yaml"
    path.write_text(path.read_text().replace("gateway:", "gatway:"))
    git(work, "commit", "--quiet", "-am", "oops")
    git(work, "push", "--quiet", "origin", "HEAD:main")
    with pytest.raises(PromotionError, match=r"spec\.traffic\.gateway: field required"):
        github.promoter().promote(candidate(2), "staging")


def test_an_audit_file_that_was_changed_by_hand_is_refused(github: Forge) -> None:
    staged(github, 1)
    staged(github, 2)
    work = github.checkout_of("grace")
    git(work, "pull", "--quiet")
    path = work / "manifests/models/films/staging/audit.jsonl"
    path.write_text(path.read_text().replace('"by":"Ada', '"by":"Eve', 1))
    git(work, "commit", "--quiet", "-am", "history")
    git(work, "push", "--quiet", "origin", "HEAD:main")
    with pytest.raises(PromotionError, match="line 2 does not follow the line before it"):
        github.promoter().promote(candidate(3), "staging")


def test_an_empty_repository_and_an_unknown_branch_are_told(github: Forge) -> None:
    with pytest.raises(UsageError, match="has no branch 'trunk'"):
        github.promoter(branch="trunk").promote(candidate(1), "staging")
    git(github.bare, "update-ref", "-d", "refs/heads/main")
    with pytest.raises(UsageError, match="the repository is empty"):
        github.promoter().promote(candidate(1), "staging")


def test_a_remote_that_is_away_changes_nothing(github: Forge) -> None:
    github.bare.rename(github.bare.with_name("away.git"))
    with pytest.raises(ServiceError, match="the Git remote does not answer"):
        github.promoter().promote(candidate(1), "staging")


def test_environments_may_have_branches_of_their_own(github: Forge) -> None:
    git(github.checkout, "push", "--quiet", "origin", "main:release")
    spec = PromotionSpec.model_validate({"environments": environments(branch="release")})
    staged(github, 1)
    outcome = github.promoter(environments=spec.environments).promote(candidate(1), "production")
    assert outcome.base == "release"
    assert github.host.requests[-1].base == "release"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_commits_are_signed_where_the_user_signs_commits(github: Forge, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    settings = {"gpg.format": "ssh", "user.signingkey": f"{key}.pub", "commit.gpgsign": "true"}
    for name, value in settings.items():
        git(github.checkout, "config", name, value)
    outcome = github.promoter().promote(candidate(1), "staging")
    assert "gpgsig -----BEGIN SSH SIGNATURE-----" in git(github.bare, "cat-file", "commit", str(outcome.branch))
