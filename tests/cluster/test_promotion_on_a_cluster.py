"""What promotion writes is what the cluster takes, and what the cluster says serves is what a revert goes back to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_namespace import Cluster
from git_forge import ADDRESS, TRAFFIC, Forge, candidate, forge_on, git, version

from slipway.cli.main import run_command_line
from slipway.contracts.project import load_project
from slipway.contracts.project.promotion import PromotionSpec
from slipway.contracts.rollout.presets import PRESETS

pytestmark = pytest.mark.cluster

FILMS = Path(__file__).parents[2] / "examples" / "films"


@pytest.fixture(autouse=True)
def rollouts_resource() -> None:
    """Skips where the custom resource is not installed."""
    known = Cluster("default").kubectl("api-resources", "--api-group=slipway.dev", "-o", "name").stdout
    if "rollouts" not in known:
        pytest.skip("the cluster has no Rollouts: kubectl apply --server-side -k manifests/crd")


@pytest.fixture
def forge(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """A repository whose environments lie in the test's namespace."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    with forge_on("github", tmp_path) as forge:
        predictor = {"minReplicas": 2, "maxReplicas": 4, "resources": {"requests": {"cpu": "500m"}}}
        places = [
            {"name": name, "namespace": cluster.namespace, "traffic": TRAFFIC} for name in ("staging", "production")
        ]
        places[1]["predictor"] = predictor  # type: ignore[assignment]
        spec = {"host": "github", "api": forge.host.address, "environments": places}
        forge.spec = PromotionSpec.model_validate(spec)
        yield forge


def merged(forge: Forge, number: int, environment: str = "staging", policy: dict[str, Any] | None = None) -> Path:
    """Promotes a version, has it merged, and returns the folder as a GitOps tool would check it out."""
    promoter = forge.promoter()
    if policy is not None:
        promoter.policy = policy
    forge.merge(str(promoter.promote(candidate(number), environment).branch))
    work = forge.checkout_of("argo")
    git(work, "fetch", "--quiet", "origin")
    git(work, "reset", "--quiet", "--hard", "origin/main")
    return work / "manifests/models/films" / environment


def rendered(folder: Path) -> str:
    return subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout


def test_every_manifest_of_a_promotion_passes_a_server_side_dry_run(forge: Forge, cluster: Cluster) -> None:
    raw = yaml.safe_load((FILMS / "slipway.yaml").read_text())["rollout"]
    assert load_project(FILMS).rollout.steps[0].minimum_dwell == 3.0
    for environment in ("staging", "production"):
        text = rendered(merged(forge, 1, environment, raw))
        done = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-", text=text)
        taken = json.loads(done.stdout)
        assert taken["metadata"]["namespace"] == cluster.namespace
        assert taken["spec"]["model"]["digest"] == version(1).digest
        # Nothing was pruned as unknown.
        written = yaml.safe_load(text)["spec"]
        assert {key: taken["spec"]["policy"][key] for key in written["policy"]} == written["policy"]
        assert written["traffic"] == taken["spec"]["traffic"]


@pytest.mark.parametrize("preset", [None, *sorted(PRESETS)])
def test_every_preset_and_the_default_policy_are_taken(forge: Forge, cluster: Cluster, preset: str | None) -> None:
    policy: dict[str, Any] = {} if preset is None else {"preset": preset}
    text = rendered(merged(forge, 1, policy=policy))
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=text)


def test_a_second_promotion_changes_the_wanted_version_of_the_same_rollout(forge: Forge, cluster: Cluster) -> None:
    for number in (1, 2):
        cluster.kubectl("apply", "--server-side", "-f", "-", text=rendered(merged(forge, number)))
    (rollout,) = cluster.get("rollouts")["items"]
    assert rollout["spec"]["model"]["version"] == "2"
    assert rollout["metadata"]["generation"] == 2


def test_a_revert_goes_back_to_what_the_cluster_says_serves(
    forge: Forge, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        cluster.kubectl("apply", "--server-side", "-f", "-", text=rendered(merged(forge, number)))
    status = {"status": {"phase": "RolledBack", "stable": "films-v1", "candidate": "films-v3"}}
    patch = ["patch", "rollout", "films", "--subresource=status", "--type=merge", "-p", json.dumps(status)]
    cluster.kubectl(*patch)
    work = forge.checkout_of("oncall")
    document = {
        "apiVersion": "slipway.dev/v1alpha1",
        "name": "films",
        "data": {"interactions": {"source": "events.parquet"}},
        "promotion": forge.spec.model_dump(mode="json", exclude_unset=True),
    }
    (work / "slipway.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("SLIPWAY_GIT_TOKEN", "token-of-ada")
    context = cluster.kubectl("config", "current-context").stdout.strip()
    arguments = ["-f", str(work), "--to", "staging", "--revert", "--context", context, "-o", "json"]
    code = run_command_line(["promote", *arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    outcome = json.loads(printed.out)
    # Git named 2 before 3, but 1 is what serves.
    assert (outcome["status"], outcome["replaces"], outcome["version"]) == ("opened", "3", "1")
    forge.merge(outcome["branch"])
    folder = forge.checkout_of("argo")
    git(folder, "pull", "--quiet")
    wanted = yaml.safe_load(rendered(folder / "manifests/models/films/staging"))["spec"]["model"]
    assert wanted["digest"] == version(1).digest


def test_the_operator_opens_the_revert_of_what_went_back(forge: Forge, cluster: Cluster, tmp_path: Path) -> None:
    for number in (1, 2):
        cluster.kubectl("apply", "--server-side", "-f", "-", text=rendered(merged(forge, number)))
    status = {"status": {"phase": "RolledBack", "stable": "films-v1", "reason": "clicks fell by 4 %"}}
    cluster.kubectl("patch", "rollout", "films", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    settings = {
        "SLIPWAY_GIT_REPOSITORY": ADDRESS["github"],
        "SLIPWAY_GIT_HOST": "github",
        "SLIPWAY_GIT_API": forge.host.address,
        "SLIPWAY_GIT_TOKEN": "token-of-ada",
    }
    command = [sys.executable, "-m", "slipway.serving.rollout.operator", "--namespace", cluster.namespace]
    command += ["--no-leader-election", "--port", "0", "--prometheus-url", "http://127.0.0.1:9"]
    with (tmp_path / "operator.log").open("w") as log:
        operator = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT)
        try:
            title = "Revert films in staging to version 1, which serves"
            cluster.wait_for(
                f"the pull request (see {tmp_path / 'operator.log'})",
                lambda: [request for request in forge.host.requests if request.title == title],
                seconds=90,
            )
        finally:
            operator.terminate()
            operator.wait(60)
    (request,) = [request for request in forge.host.requests if request.title == title]
    assert "Reason: clicks fell by 4 %" in request.body
    assert "token-of-ada" not in (tmp_path / "operator.log").read_text()
    forge.merge(request.branch)
    assert yaml.safe_load(forge.read("staging/rollout.yaml"))["spec"]["model"]["digest"] == version(1).digest
