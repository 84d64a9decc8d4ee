"""The demo's report: one page, complete in itself, made from what the demo left on disk."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway import __version__
from slipway.contracts.files import write_atomically
from slipway.examples.films.demo import charts

# fmt: off
# ruff: noqa: ISC004 - prose
STORIES = {
    "v1": ("Version 1, the first", "There was nothing to compare with: after a smoke test it got all traffic."),
    "v2": ("Version 2, a better model", "Shares of 5 and 25 % had to show no harm; at 50 % it had to prove that it is "
           "not worse than version 1 by more than each margin."),
    "v3": ("Version 3, a bad build", "Its model is good. Its predictor answers half of all requests late and fails one "
           "in ten."),
    "v4": ("Version 4, mixed up", "It passed every offline gate; afterwards its export mixed the film ids up. Each "
           "answer is quick, well formed and free of errors, so that only what people do with it tells."),
    "v2 again": ("Version 2 in version 4's place", "Against version 1, by the same command and the same policy."),
}
# fmt: on


def write_report(directory: Path, record: Mapping[str, Any]) -> Path:
    """Writes `report.html` into the demo's folder and returns its path.

    Args:
        directory: The demo's project.
        record: What the demo noted: runs, rollouts, visits, seconds.
    """
    import jinja2

    visits = [json.loads(line) for line in (directory / "visits.jsonl").read_text().splitlines()]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (Path(__file__).parent / "page.html.j2").read_text()
    )
    evaluations = {version: _evaluation(run) for version, run in record["runs"].items()}
    page = template.render(
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        seconds=f"{record['seconds']:.0f}",
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        data=_data(record["runs"]["2"]),
        minimum_rating="4",
        in_mind=5,
        totals={"visits": f"{record['visits']:,}", "failures": record["unanswered"], "people": _people(record)},
        rollouts=[_rollout(directory, entry) for entry in record["rollouts"]],
        steps=_steps(record["runs"]),
        curves=_curves(record["runs"]),
        protocol=_protocol(evaluations),
        confidence=95,
        metrics=_metrics(evaluations),
        latency=charts.latency(visits),
        directory=directory,
        next=[
            f"cd {directory}",
            "slipway up                      # serve the champion again, with Prometheus beside it",
            "slipway status                  # addresses: gateway, Prometheus, ...",
            "slipway rollout explain         # why the last rollout ended as it did",
            "slipway models list             # versions, metrics, lineage",
            "mlflow ui --backend-store-uri sqlite:///.slipway/mlflow.db    # runs and curves, on port 5000",
            "slipway run --set model.parameters.factors=32 && slipway rollout start --wait",
            "slipway down",
        ],
    )
    path = directory / "report.html"
    write_atomically(path, page)
    return path


def _output(run: Mapping[str, Any], step: str, name: str) -> Path:
    return Path(next(entry["outputs"][name] for entry in run["steps"] if entry["step"] == step))


def _evaluation(run: Mapping[str, Any]) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((_output(run, "evaluate", "evaluation") / "metrics.json").read_text())
    return content


def _data(run: Mapping[str, Any]) -> dict[str, str]:
    import pyarrow.parquet as pq

    folder = _output(run, "featurize", "features")
    manifest = json.loads((folder / "manifest.json").read_text())
    train, test = (pq.read_table(folder / f"{part}.parquet", columns=["user", "item"]) for part in ("train", "test"))
    users = set(train["user"].to_pylist()) | set(test["user"].to_pylist())
    items = set(train["item"].to_pylist()) | set(test["item"].to_pylist())
    first, last = manifest["time_range"] or ("?", "?")
    return {
        "interactions": f"{train.num_rows + test.num_rows:,}",
        "users": f"{len(users):,}",
        "items": f"{len(items):,}",
        "years": f"{first[:4]} to {last[:4]}",
    }


def _people(record: Mapping[str, Any]) -> int:
    return max((max(entry["people"].values(), default=0) for entry in record["rollouts"]), default=0)


def _steps(runs: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "version": version,
            "step": step["step"],
            "status": step["status"],
            "seconds": f"{step['seconds']:.1f}",
            "result": ", ".join(f"{name} {_short(value)}" for name, value in (step.get("metrics") or {}).items()),
        }
        for version, run in runs.items()
        for step in run["steps"]
    ]


def _short(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, float | int) else str(value)


def _curves(runs: Mapping[str, Any]) -> str:
    curves = {}
    for version, run in runs.items():
        content = json.loads((_output(run, "train", "model") / "curves.json").read_text())
        points = content["epochs"] if isinstance(content, dict) else content
        if points:
            curves[f"version {version}"] = points
    return charts.training_curves(curves) if curves else ""


def _protocol(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    protocol = str(evaluations["2"]["metrics"]["ndcg@10"]["protocol"])
    return f"{protocol[:1].upper()}{protocol[1:]}."


def _metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    pictures = []
    for metric in ("ndcg@10", "hr@10", "auc"):
        baseline = evaluations["2"]["against"]["popularity"][metric]
        rows = [("popularity", baseline["reference"], baseline["reference_low"], baseline["reference_high"])]
        for version, content in evaluations.items():
            entry = content["metrics"][metric]
            rows.append((f"version {version}", entry["value"], entry.get("low"), entry.get("high")))
        pictures.append(charts.metric_bars(metric, rows))
    return pictures


def _rollout(directory: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    folder = directory / ".slipway" / "serving" / "rollouts" / entry["rollout"]
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    begin = lines[0]["at"] if lines else 0.0
    title, story = STORIES[entry["title"]]
    promoted = entry["phase"] == "Promoted"
    if entry["people"]:
        version = entry["candidate"].rpartition("-v")[2]
        story += f" {entry['people'].get(version, 0)} different people met it; the verdicts below count their visits."
    return {
        "title": title,
        "story": story,
        "outcome": "promoted to 100 %" if promoted else "taken back to 0 %",
        "css": "promoted" if promoted else "back",
        "short": entry["reason"],
        "chart": charts.rollout_timeline(lines, entry["candidate"]),
        "verdicts": [_verdict(verdict) for verdict in entry["verdicts"]],
        "events": [
            {"at": f"{line['at'] - begin:.1f} s", "message": line["message"]}
            for line in lines
            if line["type"] == "event"
        ],
    }


def _verdict(verdict: Mapping[str, Any]) -> dict[str, str]:
    def number(value: float | None) -> str:
        return "?" if value is None else f"{value:.3g}"

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    return {
        "guardrail": verdict["guardrail"],
        "outcome": verdict["outcome"],
        "candidate": rate(verdict["candidate_rate"]),
        "stable": rate(verdict["stable_rate"]),
        "bounds": f"{number(verdict['lower'])} to {number(verdict['upper'])}",
        "margin": number(verdict["margin"]),
        "samples": f"{verdict['samples']:,} / {verdict['stable_samples']:,}",
    }
