"""`slipway promote` on a real registry and a real repository: what it prints, its exit codes, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from git_forge import TRAFFIC, git

from slipway.cli.main import run_command_line
from slipway.contracts.bundle import Counts, bundle_digest, read_bundle, write_bundle
from slipway.contracts.files import write_json
from slipway.models.registry import Registry

if TYPE_CHECKING:
    from git_forge import Forge

pytestmark = pytest.mark.integration

PROTOCOL = {
    "ranking": "full-rank",
    "candidates": "all",
    "items_ranked": 9000,
    "seen_items": "excluded",
    "held_out": "the last 20% of each user's events",
    "relevant": "every held-out item",
    "k": [10],
    "users": 600,
}


def registered(folder: Path, registry: Registry, number: int, ndcg: float) -> str:
    """Registers a bundle with card and evaluation; returns its digest."""
    bundle = folder / "bundles" / str(number)
    bundle.mkdir(parents=True)
    for name in ("weights.safetensors", "index.safetensors"):
        (bundle / name).write_bytes(f"{name} {number}".encode())
    metrics = {"ndcg@10": {"value": ndcg}, "protocol": PROTOCOL}
    lineage = {"dataset": f"data-{number}"}
    counts = Counts(users=600, items=9000, interactions=100_000)
    write_bundle(bundle, family="popularity", name="films", counts=counts, metrics=metrics, lineage=lineage)
    (bundle / "card.md").write_text(f"# films\n\nThe card of version {number}.\n")
    summary = {"protocol": PROTOCOL, "metrics": {"ndcg@10": {"value": ndcg}}, "against": {}, "slices": {}}
    write_json(bundle / "evaluation" / "metrics.json", summary)
    write_json(bundle / "evaluation" / "gates.json", {"passed": True, "gates": []})
    registry.register(bundle, "films", {"slipway.git_commit": f"c0ffee{number}"}, "challenger")
    return bundle_digest(read_bundle(bundle))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """An MLflow database with three versions of films, the first of which is champion, and their digests."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    registry = Registry(uri, folder / "artifacts")
    digests = [registered(folder, registry, number, ndcg) for number, ndcg in ((1, 0.31), (2, 0.33), (3, 0.02))]
    registry.set_alias("films", "champion", "1")
    return uri, digests


@pytest.fixture
def project(github: Forge, registry: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ada's checkout with a project in it, and her token in the environment."""
    document = {
        "apiVersion": "slipway.dev/v1alpha1",
        "name": "films",
        "data": {"interactions": {"source": "events.parquet"}},
        "tracking": {"uri": registry[0]},
        "rollout": {"steps": [{"weight": 100, "minimum_dwell": "3s", "minimum_samples": 0}]},
        "promotion": {
            "host": "github",
            "api": github.host.address,
            "bundles": "s3://bundles/{name}/{sha12}",
            "environments": [
                {"name": "staging", "traffic": TRAFFIC, "gates": [{"metric": "ndcg@10", "minimum": 0.05}]},
                {"name": "production", "traffic": TRAFFIC, "approvals": 1},
            ],
        },
    }
    (github.checkout / "slipway.yaml").write_text(yaml.safe_dump(document))
    (github.checkout / ".gitignore").write_text(".slipway/\n")
    git(github.checkout, "add", ".")
    git(github.checkout, "commit", "--quiet", "-m", "the project")
    git(github.checkout, "push", "--quiet", "origin", "main")
    monkeypatch.setenv("SLIPWAY_GIT_TOKEN", "token-of-ada")
    monkeypatch.chdir(github.checkout)
    return github.checkout


def promote(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_command_line(["promote", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_from_registered_version_to_production_and_back(
    github: Forge, project: Path, registry: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = promote(capsys, "films", "--to", "staging", "-o", "json")
    assert code == 0, err
    outcome = json.loads(out)
    # The champion is what a bare name means.
    assert (outcome["status"], outcome["version"], outcome["digest"]) == ("opened", "1", registry[1][0])
    assert "pushing slipway/films/staging/v1-" in err
    body = github.host.requests[-1].body
    assert "| ndcg@10 >= 0.05 | met | ndcg@10 is 0.3100, at least 0.05 is required |" in body
    assert "| minimum_users | met |" in body
    assert "The card of version 1." in body
    assert "| git commit | `c0ffee1` |" in body
    github.merge(outcome["branch"])

    code, out, err = promote(capsys, "films", "--to", "production", "--version", "2")
    assert code == 3
    assert "order: staging has not promoted films version 2" in err
    assert "slipway promote films --to staging" in err

    for version in ("1", "2"):
        for environment in ("staging", "production"):
            code, out, err = promote(capsys, "--to", environment, "--version", version, "-o", "json")
            assert code == 0, err
            if json.loads(out)["status"] != "current":
                github.merge(json.loads(out)["branch"])
    assert "| ndcg@10 | 0.3100 | 0.3300 | +0.0200 |" in github.host.requests[-1].body
    assert "s3://bundles/films/" + registry[1][1][:12] in github.read("production/rollout.yaml")

    code, out, err = promote(capsys, "films", "--to", "production", "--revert", "--reason", "clicks fell")
    assert code == 0, err
    assert "the registry's champion, films/1, is taken for what serves" in err
    assert "Revert films in production to version 1, which serves" in github.host.requests[-1].title
    assert "proposed" in out


def test_a_gate_of_the_environment_refuses_with_exit_code_3(
    github: Forge, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = promote(capsys, "films", "--to", "staging", "--version", "3", "-o", "json")
    assert code == 3
    told = json.loads(err[err.index("{") :])
    assert (told["error"], told["exit_code"]) == ("GateError", 3)
    assert "ndcg@10 is 0.0200, at least 0.05 is required" in told["what"]
    assert github.host.requests == []


def test_a_dry_run_prints_the_difference_and_wrong_use_is_code_2(
    github: Forge, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = promote(capsys, "films@challenger", "--to", "staging", "--dry-run", "--force", "--reason", "try")
    assert code == 0, err
    assert "+kind: Rollout" in out
    assert "dry run: nothing was pushed" in out
    assert github.branches() == ["main"]
    assert promote(capsys, "films")[0] == 2
    assert promote(capsys, "films", "--to", "moon")[0] == 2
    assert promote(capsys, "films", "--to", "staging", "--version", "1", "--alias", "champion")[0] == 2
    assert promote(capsys, "films", "--to", "staging", "--approve", "--revert")[0] == 2
    assert promote(capsys, "films", "--to", "staging", "--force")[0] == 2


def test_the_check_reads_its_rules_from_the_base(
    github: Forge, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for environment in ("staging", "production"):
        _, out, _ = promote(capsys, "films", "--to", environment, "-o", "json")
        if environment == "staging":
            github.merge(json.loads(out)["branch"])
    git(project, "fetch", "--quiet", "origin")
    git(project, "checkout", "--quiet", "-B", "attempt", f"origin/{json.loads(out)['branch']}")
    text = (project / "slipway.yaml").read_text()
    (project / "slipway.yaml").write_text(text.replace("approvals: 1", "approvals: 0"))
    git(project, "commit", "--quiet", "-am", "loosen the rules")
    code, out, err = promote(capsys, "--check", "--base", "origin/main", "-o", "json")
    assert code == 3
    assert json.loads(out)[0]["ok"] is False
    assert "1 approvals are needed and 0 given" in err


def test_a_repository_elsewhere_is_changed_without_a_checkout(
    github: Forge, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (project / "slipway.yaml").read_text()
    (project / "slipway.yaml").write_text(text.replace("promotion:\n", f"promotion:\n  repository: {github.bare}\n"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ada")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Ada")
    monkeypatch.setenv("EMAIL", "ada@example.com")
    code, out, err = promote(capsys, "films", "--to", "staging", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["status"] == "pushed"  # a folder is on no host
    assert json.loads(out)["branch"] in github.branches()
    assert promote(capsys, "films", "--to", "staging", "-o", "json")[0] == 0
    assert len(github.branches()) == 2


def killed_promotion(project: Path) -> int:
    command = [sys.executable, "-m", "slipway.cli.main", "promote", "films", "--to", "staging"]
    return subprocess.run(command, cwd=project, env=os.environ, capture_output=True, timeout=120).returncode


def test_killed_between_commit_and_push_the_next_run_ends_with_one_pull_request(
    github: Forge, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = project / ".git" / "hooks" / "pre-push"
    # The hook's parent is git, and git's is the command.
    hook.write_text("#!/bin/sh\nkill -9 $(sed -n 's/^PPid:[[:space:]]*//p' /proc/$PPID/status)\nexit 1\n")
    hook.chmod(0o755)
    assert killed_promotion(project) == -signal.SIGKILL
    assert github.branches() == ["main"]
    assert git(project, "status", "--porcelain") == ""
    hook.unlink()
    code, out, err = promote(capsys, "films", "--to", "staging", "-o", "json")
    assert (code, json.loads(out)["status"]) == (0, "opened"), err
    assert len(github.host.requests) == 1


def test_killed_between_push_and_pull_request_the_next_run_opens_it(
    github: Forge, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = github.bare / "hooks" / "post-receive"
    # receive-pack's parent is git push, and that one's is the command; the branch is there by now.
    hook.write_text(
        "#!/bin/sh\nup() { sed -n 's/^PPid:[[:space:]]*//p' /proc/$1/status; }\n"
        'pid=$PPID\nwhile ! tr "\\0" " " < /proc/$pid/cmdline | grep -q "slipway.cli.main"; do pid=$(up $pid); done\n'
        "kill -9 $pid\n"
    )
    hook.chmod(0o755)
    assert killed_promotion(project) == -signal.SIGKILL
    assert len(github.branches()) == 2
    assert github.host.requests == []
    hook.unlink()
    code, out, err = promote(capsys, "films", "--to", "staging", "-o", "json")
    assert (code, json.loads(out)["status"]) == (0, "opened"), err
    assert len(github.host.requests) == 1
    assert len(github.branches()) == 2
