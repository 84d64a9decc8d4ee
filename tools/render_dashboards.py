"""Writes monitoring/dashboards/ from contracts/metrics.py: `python tools/render_dashboards.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.contracts import metrics as m

DASHBOARDS = Path(__file__).resolve().parents[1] / "monitoring" / "dashboards"
_SERVED = 'namespace=~"$namespace",model=~"$model"'
_ROLLOUT = 'model=~"$model",rollout=~"$rollout"'
_BY = "model, version"


@dataclass(frozen=True)
class Panel:
    """One panel: title, queries with their legends, unit and form of Grafana, and what a reader should know."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    form: str = "timeseries"
    about: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: its file's name, title, rows of panels, and variables with the series that they come from."""

    name: str
    title: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Mapping[str, str]


def rate(metric: m.MetricDefinition, selector: str, by: str, **labels: str) -> str:
    """Returns the sum of a counter's rate."""
    extra = "".join(f',{label}=~"{value}"' for label, value in labels.items())
    return f"sum by ({by}) (rate({metric.name}{{{selector}{extra}}}[$__rate_interval]))"


def ratio(part: m.MetricDefinition, whole: m.MetricDefinition, selector: str, **labels: str) -> str:
    """Returns a share of rates by version."""
    return f"{rate(part, selector, _BY, **labels)} / {rate(whole, selector, _BY)}"


def quantile(share: float, metric: m.MetricDefinition, selector: str, by: str = "") -> str:
    """Returns a quantile of a histogram."""
    groups = f"{by}, le" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({groups}) (rate({metric.name}_bucket{{{selector}}}[$__rate_interval])))"
    )


def one(metric: m.MetricDefinition, selector: str, by: str) -> str:
    """Returns a gauge, once for all copies of the operator."""
    return f"max by ({by}) ({metric.name}{{{selector}}})"


VERSION = "{{model}} {{version}}"
SERVING = Dashboard(
    "serving",
    "Slipway / Serving",
    {
        "Requests": [
            Panel("Requests", {f"{VERSION} {{{{code}}}}": rate(m.REQUESTS, _SERVED, f"{_BY}, code")}, "reqps"),
            Panel("Failed", {VERSION: ratio(m.REQUESTS, m.REQUESTS, _SERVED, code="5..")}, "percentunit"),
            Panel(
                "Latency",
                {
                    f"{VERSION} p{share * 100:g}": quantile(share, m.LATENCY, _SERVED, _BY)
                    for share in (0.5, 0.95, 0.99)
                },
                "s",
            ),
            Panel("In flight", {VERSION: f"sum by ({_BY}) ({m.IN_FLIGHT.name}{{{_SERVED}}})"}),
        ],
        "Answers": [
            Panel("Entities answered", {VERSION: rate(m.PREDICTIONS, _SERVED, _BY)}, "cps"),
            Panel("Best score, median", {VERSION: quantile(0.5, m.SCORES, _SERVED, _BY)}),
            Panel("Fallbacks", {f"{VERSION} {{{{reason}}}}": rate(m.FALLBACKS, _SERVED, f"{_BY}, reason")}, "cps"),
            Panel("Empty", {VERSION: ratio(m.EMPTY, m.PREDICTIONS, _SERVED)}, "percentunit"),
        ],
        "Features": [
            Panel(
                "Age of the oldest row",
                {"{{model}} {{view}}": f"max by (model, view) ({m.FEATURE_AGE.name}{{{_SERVED}}})"},
                "s",
            ),
            Panel("Time to read, p95", {VERSION: quantile(0.95, m.FEATURE_READ, _SERVED, _BY)}, "s"),
            Panel("Rows read", {"{{view}} {{status}}": rate(m.FEATURE_STATUS, _SERVED, "view, status")}, "cps"),
            Panel("Events dropped", {VERSION: rate(m.EVENTS_DROPPED, _SERVED, _BY)}, "cps"),
        ],
        "Predictors": [
            Panel(
                "Bundles",
                {"": f"count by (namespace, model, version, family, sha256) ({m.BUNDLE_INFO.name}{{{_SERVED}}})"},
                form="table",
                about="One line a version: two lines of one version are two models under one name.",
            ),
        ],
    },
    {
        "namespace": f"label_values({m.BUNDLE_INFO.name}, namespace)",
        "model": f"label_values({m.BUNDLE_INFO.name}, model)",
    },
)
ROLLOUTS = Dashboard(
    "rollouts",
    "Slipway / Rollouts",
    {
        "Where it stands": [
            Panel("Phase", {"{{phase}}": one(m.ROLLOUT_PHASE, _ROLLOUT, "rollout, phase")}, form="state-timeline"),
            Panel("Weights decided", {"{{arm}}": one(m.ROLLOUT_WEIGHT, _ROLLOUT, "rollout, arm")}, "percent"),
            Panel("Step", {"{{rollout}}": one(m.ROLLOUT_STEP, _ROLLOUT, "rollout")}),
            Panel(
                "Requests by version",
                {VERSION: f'sum by ({_BY}) (rate({m.REQUESTS.name}{{model=~"$model"}}[$__rate_interval]))'},
                "reqps",
                about="What the weights became at the predictors.",
            ),
        ],
        "What the guardrails say": [
            Panel(
                "Verdicts",
                {
                    "{{guardrail}} {{arm}} {{outcome}}": one(m.ROLLOUT_VERDICT, _ROLLOUT, "guardrail, arm, outcome")
                    + " == 1"
                },
                form="state-timeline",
            ),
            Panel(
                "Requirement of the step met",
                {"{{guardrail}} {{arm}}": one(m.ROLLOUT_MET, _ROLLOUT, "guardrail, arm")},
                form="state-timeline",
            ),
            Panel(
                "Bounds and margins",
                {
                    "{{guardrail}} {{arm}} {{side}}": one(m.ROLLOUT_BOUND, _ROLLOUT, "guardrail, arm, measure, side"),
                    "{{guardrail}} margin": one(m.ROLLOUT_MARGIN, _ROLLOUT, "guardrail, measure"),
                },
                about="A guardrail passes when the bound is inside the margin; the interval holds over all looks.",
            ),
            Panel("Samples", {"{{guardrail}} {{arm}}": one(m.ROLLOUT_SAMPLES, _ROLLOUT, "guardrail, arm")}),
        ],
        "Decisions": [
            Panel(
                "Decisions in an hour",
                {
                    "{{model}} {{kind}}": (
                        f'sum by (model, kind) (increase({m.ROLLOUT_DECISIONS.name}{{model=~"$model"}}[1h]))'
                    )
                },
            ),
        ],
    },
    {
        "model": f"label_values({m.ROLLOUT_PHASE.name}, model)",
        "rollout": f'label_values({m.ROLLOUT_PHASE.name}{{model=~"$model"}}, rollout)',
    },
)
_NAMESPACE = 'namespace=~"$namespace"'
OPERATOR = Dashboard(
    "operator",
    "Slipway / Operator",
    {
        "The operator": [
            Panel("Leader", {"{{pod}}": f"{m.OPERATOR_LEADER.name}{{{_NAMESPACE}}}"}, form="state-timeline"),
            Panel("Rollouts", {"{{phase}}": f"{one(m.OPERATOR_ROLLOUTS, _NAMESPACE, 'phase')} > 0"}),
            Panel("Due and waiting", {"{{pod}}": f"{m.OPERATOR_QUEUE_DEPTH.name}{{{_NAMESPACE}}}"}),
            Panel("Looks", {"looks": f"sum (rate({m.ROLLOUT_TICKS.name}{{{_NAMESPACE}}}[$__rate_interval]))"}, "ops"),
            Panel(
                "Time of a look",
                {f"p{share * 100:g}": quantile(share, m.ROLLOUT_TICK_DURATION, _NAMESPACE) for share in (0.5, 0.95)},
                "s",
            ),
            Panel(
                "Since the last look", {"": f"time() - max ({m.ROLLOUT_LAST_TICK.name}{{{_NAMESPACE}}})"}, "s", "stat"
            ),
            Panel("Errors", {"{{error}}": rate(m.ROLLOUT_ERRORS, _NAMESPACE, "error")}, "ops"),
            Panel("Calls to the API server", {"{{pod}}": rate(m.OPERATOR_API_CALLS, _NAMESPACE, "pod")}, "ops"),
            Panel(
                "Objects put right in an hour",
                {"{{reason}}": f"sum by (reason) (increase({m.OPERATOR_RESTORED.name}{{{_NAMESPACE}}}[1h]))"},
            ),
        ],
    },
    {"namespace": f"label_values({m.OPERATOR_LEADER.name}, namespace)"},
)
FEEDBACK = Dashboard(
    "feedback",
    "Slipway / Feedback",
    {
        "Feedback": [
            Panel("Received", {"{{model}} {{outcome}}": rate(m.FEEDBACK, _SERVED, "model, outcome")}, "cps"),
            Panel("Requests joined", {VERSION: rate(m.JOINED_REQUESTS, _SERVED, _BY)}, "reqps"),
            Panel("Clicked", {VERSION: ratio(m.JOINED_CLICKED, m.JOINED_REQUESTS, _SERVED)}, "percentunit"),
            Panel(
                "Value of a request",
                {
                    f"{VERSION} {{{{type}}}}": (
                        f"{rate(m.JOINED_VALUE, _SERVED, f'{_BY}, type')}"
                        f" / on ({_BY}) group_left () {rate(m.JOINED_REQUESTS, _SERVED, _BY)}"
                    )
                },
            ),
        ],
        "Users": [
            Panel("New users", {VERSION: rate(m.NEW_USERS, _SERVED, _BY)}, "cps"),
            Panel("Users joined", {VERSION: rate(m.JOINED_USERS, _SERVED, _BY)}, "cps"),
            Panel(
                "Users who clicked", {VERSION: ratio(m.JOINED_CLICKED_USERS, m.JOINED_USERS, _SERVED)}, "percentunit"
            ),
        ],
        "Shadows": [
            Panel("Pairs compared", {VERSION: rate(m.SHADOW_PAIRS, _SERVED, _BY)}, "cps"),
            Panel("Top k in common", {VERSION: ratio(m.SHADOW_AGREEMENT, m.SHADOW_PAIRS, _SERVED)}, "percentunit"),
            Panel("Same order", {VERSION: ratio(m.SHADOW_RANK, m.SHADOW_RANK_PAIRS, _SERVED)}, "percentunit"),
            Panel(
                "Difference of scores", {VERSION: ratio(m.SHADOW_SCORE, m.SHADOW_SCORE_PAIRS, _SERVED)}, "percentunit"
            ),
        ],
    },
    {
        "namespace": f"label_values({m.JOINED_REQUESTS.name}, namespace)",
        "model": f"label_values({m.JOINED_REQUESTS.name}, model)",
    },
)
ALL = (SERVING, ROLLOUTS, OPERATOR, FEEDBACK)
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Returns a dashboard in Grafana's JSON model (schema version 39)."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in dashboard.rows.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
            }
        )
        y += 1
        width = 24 if len(row) == 1 else 12
        for index, panel in enumerate(row):
            place = {"h": 8, "w": width, "x": index % (24 // width) * width, "y": y}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
            if index % (24 // width) == 24 // width - 1 or index == len(row) - 1:
                y += 8
    variables = [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
    variables += [
        {
            "name": name,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
        for name, query in dashboard.variables.items()
    ]
    return {
        "uid": f"slipway-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["slipway"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query,
            "legendFormat": legend or "__auto",
            **({"format": "table", "instant": True} if panel.form == "table" else {}),
        }
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "type": panel.form,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
    }


def main() -> int:
    """Returns 1 where --check finds a file out of date."""
    stale = False
    for dashboard in ALL:
        path, text = DASHBOARDS / f"{dashboard.name}.json", json.dumps(grafana(dashboard), indent=1) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        if "--check" in sys.argv[1:]:
            print(f"error: {path}: out of date. Run: python tools/render_dashboards.py", file=sys.stderr)
            stale = True
        else:
            DASHBOARDS.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
