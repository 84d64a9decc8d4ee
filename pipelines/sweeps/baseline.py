"""What the project's own parameters reach on the data that the trials choose on: a sweep must beat that.

It is the command of a trial, run once with nothing to replace, and kept for later runs of the same sweep.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slipway.components.tune.parameters import PARAMETERS_VARIABLE, REQUEST_VARIABLE
from slipway.contracts.files import write_atomically
from slipway.pipelines.sweeps.records import TrialRecord
from slipway.pipelines.sweeps.trial_process import TrialProcess, main_container

BASELINE = "baseline"
POLL_SECONDS = 0.05


def measure_baseline(document: Mapping[str, Any], folder: Path) -> TrialRecord:
    """Returns the trial of the project's own parameters; its number is -1.

    Args:
        document: The Experiment.
        folder: The sweep's folder.
    """
    kept = folder / f"{BASELINE}.json"
    try:
        return TrialRecord.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        pass
    name = f"{document['metadata']['name']}-{BASELINE}"
    reading, writing = os.pipe()
    process = TrialProcess(
        _without_search(document),
        name,
        {row["name"]: "" for row in document["spec"]["parameters"]},
        folder / BASELINE,
        cores=sorted(os.sched_getaffinity(0)),
        lifeline=reading,
    )
    try:
        while not process.poll():
            time.sleep(POLL_SECONDS)
    finally:
        process.end()
        os.close(reading)
        os.close(writing)
    error = process.error()
    value = process.reports[-1] if process.reports and error is None else None
    record = TrialRecord(
        name=name,
        number=-1,
        status="Failed" if error is not None else "MetricsUnavailable" if value is None else "Succeeded",
        parameters={},
        value=value,
        metrics=dict(process.metrics),
        curve=list(process.reports),
        seconds=time.monotonic() - process.started,
        error=error,
        log=process.log,
    )
    if record.status == "Succeeded":
        write_atomically(kept, record.model_dump_json(indent=2) + "\n")
    return record


def _without_search(document: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(document))
    for row in main_container(content, content["spec"]["trialTemplate"]["trialSpec"]).get("env") or ():
        if row["name"] == PARAMETERS_VARIABLE:
            row["value"] = "{}"
        elif row["name"] == REQUEST_VARIABLE:
            row["value"] = json.dumps(json.loads(row["value"]) | {"types": {}}, sort_keys=True)
    return content
