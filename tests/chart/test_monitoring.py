"""Alerts and dashboards: every metric that they name is exported, every alert has its cases and its page."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered import ROOT, tool

from slipway.contracts import metrics
from slipway.contracts.metrics import MetricDefinition

RULES = ROOT / "monitoring" / "rules"
FILES = sorted(RULES.glob("*.rules.yaml"))
DEFINITIONS = {found.name: found for found in vars(metrics).values() if isinstance(found, MetricDefinition)}
ADDED_BY_PROMETHEUS = {"namespace", "pod", "le", "alertname", "alertstate"}
SELECTOR = re.compile(r"\b(slipway_[a-z0-9_]+)\s*(\{[^}]*\})?")


@functools.cache
def rules_of(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def definition(name: str) -> MetricDefinition:
    """Returns the metric that a series belongs to."""
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    base = DEFINITIONS[re.sub(r"_(bucket|count|sum)$", "", name)]
    assert base.kind == "histogram", name
    return base


def assert_exported(expression: str) -> None:
    """Every series of an expression is one that the code exports, chosen by labels that it has."""
    # The name between two colons of a recorded series is no series itself.
    plain = re.sub(r"\b\w+:\w+:\w+\b(\{[^}]*\})?", "", expression)
    found = SELECTOR.findall(plain)
    for name, selector in found:
        labels = set(re.findall(r"(\w+)\s*[!=]", selector))
        assert labels <= {*definition(name).labels, *ADDED_BY_PROMETHEUS}, (name, labels)
    recorded = set(re.findall(r"\b\w+:\w+:\w+\b", expression))
    assert recorded <= {rule["record"] for path in FILES for rule in rules_of(path) if "record" in rule}
    assert found or recorded, expression


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return found


@pytest.mark.parametrize("path", sorted(RULES.glob("*.test.yaml")), ids=lambda path: path.stem)
def test_every_alert_fires_stays_silent_and_bears_absent_series(promtool: str, path: Path) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", path.name], cwd=RULES, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_alert_is_without_its_three_cases(path: Path) -> None:
    text = (RULES / path.name.replace(".rules.", ".test.")).read_text()
    tests = {test["name"]: test for test in yaml.safe_load(text)["tests"]}
    absent = json.dumps([test for test in tests.values() if not test["input_series"]])
    for rule in rules_of(path):
        if name := rule.get("alert"):
            (fires,) = [test for title, test in tests.items() if title.startswith(f"{name} fires")]
            (silent,) = [test for title, test in tests.items() if title.startswith(f"{name} stays silent")]
            assert fires["promql_expr_test"][0]["exp_samples"], name
            assert silent["input_series"], name
            assert not silent["promql_expr_test"][0]["exp_samples"], name
            assert name in absent or "absent(" in rule["expr"], name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_name_what_the_code_exports(path: Path) -> None:
    for rule in rules_of(path):
        assert_exported(rule["expr"])


def test_every_alert_has_a_page_for_who_is_on_call() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    titles = {title.lower() for title in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    alerts = {rule["alert"]: rule for path in FILES for rule in rules_of(path) if "alert" in rule}
    assert titles == {name.lower() for name in alerts}
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/alerts.md#{name.lower()}")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}


def test_dashboards_are_those_that_the_metric_names_make() -> None:
    render = tool("render_dashboards")
    for dashboard in render.ALL:
        written = json.loads((render.DASHBOARDS / f"{dashboard.name}.json").read_text())
        assert written == render.grafana(dashboard), "run: python tools/render_dashboards.py"


def expressions() -> list[str]:
    return [
        target["expr"]
        for path in sorted((ROOT / "monitoring" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def test_every_panel_shows_what_the_code_exports() -> None:
    assert len(expressions()) > 30
    for expression in expressions():
        assert_exported(expression)


def test_prometheus_reads_every_panel(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{index}", "expr": expression.replace("$__rate_interval", "1m")}
        for index, expression in enumerate(expressions())
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
