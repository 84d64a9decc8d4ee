"""GitOps examples: they are what the tools read, point at what is there, and know every phase of a rollout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered import MANIFESTS, ROOT, chart

from slipway.serving.rollout.core.types import Phase

EXAMPLES = ROOT / "examples" / "gitops"
ENDED_WELL = {Phase.PROMOTED, Phase.COMPLETED}
ENDED_BADLY = {Phase.ROLLED_BACK, Phase.FAILED}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_slipway_comes_before_the_models() -> None:
    (slipway,) = documents(EXAMPLES / "argocd" / "slipway.yaml")
    (models,) = documents(EXAMPLES / "argocd" / "models.yaml")
    waves = [
        int(each["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for each in (slipway, models["spec"]["template"])
    ]
    assert waves == sorted(set(waves))
    (_, kustomization) = documents(EXAMPLES / "flux" / "slipway.yaml")
    (_, model) = documents(EXAMPLES / "flux" / "models.yaml")
    assert [each["name"] for each in model["spec"]["dependsOn"]] == [kustomization["metadata"]["name"]]


def test_paths_and_checked_objects_are_there() -> None:
    (slipway,) = documents(EXAMPLES / "argocd" / "slipway.yaml")
    assert (ROOT / slipway["spec"]["source"]["path"] / "Chart.yaml").exists()
    (_, kustomization) = documents(EXAMPLES / "flux" / "slipway.yaml")
    overlay = ROOT / kustomization["spec"]["path"]
    assert overlay.resolve().is_relative_to(MANIFESTS / "overlays")
    made = {(each["kind"], each["metadata"]["name"]) for each in chart()}
    for check in kustomization["spec"]["healthChecks"]:
        assert (check["kind"], check["name"]) in made


def test_the_chart_takes_the_values_of_the_application(tmp_path: Path) -> None:
    (slipway,) = documents(EXAMPLES / "argocd" / "slipway.yaml")
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(slipway["spec"]["source"]["helm"]["valuesObject"]))
    found = chart(f"--values={path}")
    # Without a look at the cluster each rendering would make another key.
    assert not [each for each in found if each["kind"] == "Secret"]
    assert found == chart(f"--values={path}")


def lua_health(status: str) -> tuple[str, str]:
    """Returns what Argo CD would show of a Rollout with a status, written in Lua."""
    lua = next((found for name in ("lua5.4", "lua5.3", "lua5.1", "lua") if (found := shutil.which(name))), None)
    if lua is None:
        pytest.skip("no Lua is installed (Debian package lua5.4)")
    settings = yaml.safe_load((EXAMPLES / "argocd" / "argocd-cm-patch.yaml").read_text())
    script = settings["data"]["resource.customizations.health.slipway.dev_Rollout"]
    program = (
        f"local function health(obj)\n{script}\nend\n"
        f"local found = health({{metadata = {{generation = 2}}, status = {status}}})\n"
        "io.write(found.status, '|', found.message)\n"
    )
    done = subprocess.run([lua, "-"], input=program, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr
    shown, _, message = done.stdout.partition("|")
    return shown, message


@pytest.mark.parametrize("phase", Phase)
def test_argo_cd_shows_a_rollout_as_it_stands(phase: Phase) -> None:
    status = f'{{phase = "{phase.value}", observedGeneration = 2, reason = "because"}}'
    expected = "Progressing"
    if phase in ENDED_WELL:
        expected = "Healthy"
    elif phase in ENDED_BADLY | {Phase.HOLDING}:
        expected = "Degraded"
    elif phase in {Phase.PAUSED, Phase.AWAITING_GATE}:
        expected = "Suspended"
    assert lua_health(status) == (expected, "because")


def test_argo_cd_does_not_take_an_old_status_for_the_answer_to_a_change() -> None:
    assert lua_health("nil")[0] == "Progressing"
    assert lua_health('{phase = "Promoted", observedGeneration = 1}')[0] == "Progressing"


def test_flux_waits_for_the_end_of_every_rollout() -> None:
    (_, model) = documents(EXAMPLES / "flux" / "models.yaml")
    (check,) = model["spec"]["healthCheckExprs"]
    for expression, phases in (("current", ENDED_WELL), ("failed", ENDED_BADLY)):
        named = {phase for phase in Phase if f"'{phase.value}'" in check[expression]}
        assert named == phases
    assert {phase for phase in Phase if f"'{phase.value}'" in check["inProgress"]} == ENDED_WELL | ENDED_BADLY
