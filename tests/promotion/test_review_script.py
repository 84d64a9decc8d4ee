"""The script of the CI workflows, on a real repository: what it writes for the comment, and when it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from git_forge import candidate, environments, git

from slipway.contracts.project.promotion import PromotionSpec

if TYPE_CHECKING:
    from git_forge import Forge

WORKFLOWS = Path(__file__).parents[2] / "examples" / "gitops" / "workflows"

PROJECT = {
    "apiVersion": "slipway.dev/v1alpha1",
    "name": "films",
    "data": {"interactions": {"source": "s3://events/films.parquet"}},
    "promotion": {"environments": environments(approvals=1)},
}


@pytest.fixture
def repository(github: Forge) -> Forge:
    """A repository with a project, and version 1 in staging."""
    (github.checkout / "slipway.yaml").write_text(yaml.safe_dump(PROJECT))
    git(github.checkout, "add", ".")
    git(github.checkout, "commit", "--quiet", "-m", "the project")
    git(github.checkout, "push", "--quiet", "origin", "main")
    github.spec = PromotionSpec.model_validate(
        {"host": "github", "api": github.host.address, "environments": environments(approvals=1)}
    )
    github.merge(str(github.promoter().promote(candidate(1), "staging").branch))
    return github


def review(forge: Forge, branch: str, change: str | None = None) -> tuple[int, str]:
    """Reviews a branch in a fresh checkout, as a job does; `change` is committed to slipway.yaml before."""
    work = forge.checkout_of(f"job-{len(list(forge.bare.parent.iterdir()))}")
    git(work, "checkout", "--quiet", "--detach", f"origin/{branch}")
    if change is not None:
        (work / "slipway.yaml").write_text(change)
        git(work, "commit", "--quiet", "-am", "another project file")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(WORKFLOWS / "review.sh"), "origin/main", "review.md"]
    done = subprocess.run(command, cwd=work, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    report = (work / "review.md").read_text()
    assert report in done.stdout, done.stderr
    assert git(work, "worktree", "list").count("\n") == 1
    return done.returncode, report


def test_a_promotion_is_shown_as_what_changes_on_the_cluster(repository: Forge) -> None:
    outcome = repository.promoter().promote(candidate(2), "staging")
    code, report = review(repository, str(outcome.branch))
    assert code == 0, report
    assert report.startswith("<!-- slipway review -->\n")
    assert "- Promotions: nothing forbids the merge." in report
    assert "The pipeline stays as it is." in report
    old, new = (f"{sign}    version: '{number}'" for sign, number in (("-", 1), ("+", 2)))
    assert old in report.replace('"', "'")
    assert new in report.replace('"', "'")


def test_a_promotion_without_its_approvals_is_refused(repository: Forge) -> None:
    outcome = repository.promoter().promote(candidate(1), "production")
    code, report = review(repository, str(outcome.branch))
    assert code == 1
    assert "**Promotions: this may not be merged.**" in report
    assert "1 approvals are needed and 0 given" in report


def test_another_project_file_shows_how_the_pipeline_changes_and_a_wrong_one_is_refused(repository: Forge) -> None:
    changed = PROJECT | {"model": {"parameters": {"factors": 64}}}
    code, report = review(repository, "main", yaml.safe_dump(changed))
    assert code == 0, report
    assert "<summary>Pipeline</summary>" in report
    assert any(line.startswith("+") and "factors" in line for line in report.splitlines())
    assert "Nothing changes on the cluster." in report
    code, report = review(repository, "main", yaml.safe_dump(PROJECT | {"modle": {}}))
    assert code == 1
    assert "Did you mean 'model'?" in report


def test_the_workflows_run_the_script_with_the_rights_that_they_need_and_no_more() -> None:
    github = yaml.safe_load((WORKFLOWS / "github-actions.yaml").read_text())
    # YAML 1.1 reads the key `on` as true. The trigger is the one that gives forks no secret.
    assert list(github[True]) == ["pull_request"]
    assert github["permissions"] == {"contents": "read", "pull-requests": "write"}
    steps = github["jobs"]["slipway"]["steps"]
    assert steps[0]["with"] | {"ref": ""} == {"fetch-depth": 0, "ref": "", "persist-credentials": False}
    for step in steps:
        # Texts that outsiders choose come by the environment, never into the script itself.
        assert "${{" not in step.get("run", "")
    gitlab = yaml.safe_load((WORKFLOWS / "gitlab-ci.yml").read_text())["slipway"]
    assert gitlab["variables"]["GIT_DEPTH"] == "0"
    for script in (*[step["run"] for step in steps if "run" in step], *gitlab["script"], *gitlab["after_script"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
