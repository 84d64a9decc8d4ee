"""Configuration of Prometheus: what it scrapes, and the labels that say which arm a series belongs to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.contracts.files import write_atomically

JOBS = ("gateway", "predictors", "collector", "routers", "controller")


@dataclass(frozen=True)
class ScrapeTarget:
    """One address that Prometheus scrapes."""

    job: str
    address: str
    labels: tuple[tuple[str, str], ...] = ()


def prometheus_configuration(*, scrape_interval: float, targets: Path) -> dict[str, Any]:
    """Returns Prometheus's configuration; the addresses come and go in one file a job under `targets`."""
    interval = f"{max(1, round(scrape_interval * 1000))}ms"
    jobs = [
        {
            "job_name": job,
            # A predictor names its own model and version; the target's labels fill in where a series has none.
            "honor_labels": True,
            "file_sd_configs": [{"files": [str(targets / f"{job}.json")], "refresh_interval": "5s"}],
        }
        for job in JOBS
    ]
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "scrape_configs": jobs,
    }


def write_targets(folder: Path, targets: Sequence[ScrapeTarget]) -> bool:
    """Replaces the lists of addresses that changed, atomically; returns whether one did."""
    changed = False
    for job in JOBS:
        groups = [
            {"targets": [target.address], "labels": dict(target.labels)} for target in targets if target.job == job
        ]
        changed |= _write_if_changed(folder / f"{job}.json", json.dumps(groups, indent=1, sort_keys=True) + "\n")
    return changed


def write_configuration(path: Path, configuration: dict[str, Any]) -> bool:
    """Writes Prometheus's configuration (JSON is YAML) if it would change; returns whether it did."""
    return _write_if_changed(path, json.dumps(configuration, indent=1, sort_keys=True) + "\n")


def _write_if_changed(path: Path, text: str) -> bool:
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    write_atomically(path, text)
    return True
