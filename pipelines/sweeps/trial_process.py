"""One trial as a process of this machine: the command and the variables of the Experiment's trial template.

Placeholders are replaced as Katib replaces them, in the text of the manifest; metrics are read as its collector reads
them, from the lines of the output.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway.components.harness import ERROR_FILE
from slipway.components.tune.parameters import FOLDER_VARIABLE, LIFELINE_VARIABLE, REASON_VARIABLE

GRACE_SECONDS = 5.0
LOG = "trial.log"
# Each of these libraries would start a thread a core in each of the trials that run beside one another.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "ARROW_NUM_THREADS")


def manifest_of(document: Mapping[str, Any], name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Returns the manifest of a trial, with values for the placeholders.

    Args:
        document: The Experiment.
        name: Of the trial.
        values: Parameter -> text.
    """
    template = document["spec"]["trialTemplate"]
    text = json.dumps(template["trialSpec"])
    known = {"${trialSpec.Name}": name} | dict(values)
    for row in template["trialParameters"]:
        text = text.replace(f"${{trialParameters.{row['name']}}}", known[row["reference"]])
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def main_container(document: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the container of a trial's manifest that trains; of a TrainJob, what stands for it."""
    spec: dict[str, Any] = manifest["spec"]
    if manifest["kind"] == "TrainJob":
        trainer: dict[str, Any] = spec["trainer"]
        return trainer
    name = document["spec"]["trialTemplate"]["primaryContainerName"]
    return next(row for row in spec["template"]["spec"]["containers"] if row["name"] == name)


def container_of(document: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[list[str], dict[str, str], float]:
    """Returns command, plain variables and time limit in seconds of a trial's main container."""
    spec, container = manifest["spec"], main_container(document, manifest)
    command = [*(container.get("command") or ()), *(container.get("args") or ())]
    # A secret's value is not in the document: here the caller's own environment holds it.
    variables = {row["name"]: row["value"] for row in container.get("env") or () if "value" in row}
    return command, variables, float(spec.get("activeDeadlineSeconds") or 1e9)


def metric_lines(document: Mapping[str, Any]) -> re.Pattern[str]:
    """Returns the expression that finds a metric's name and value in a line."""
    return re.compile(document["spec"]["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"][0])


class TrialProcess:
    """A trial that runs; give its end to `finish`.

    Args:
        document: The Experiment.
        name: Of the trial.
        values: Parameter -> text.
        folder: Where it works.
        cores: The processors that it may use.
        lifeline: A pipe's end that closes with this process.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        name: str,
        values: Mapping[str, str],
        folder: Path,
        *,
        cores: Sequence[int],
        lifeline: int,
    ) -> None:
        command, variables, limit = container_of(document, manifest_of(document, name, values))
        if command[0] == "python":
            command[0] = sys.executable
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR_FILE).unlink(missing_ok=True)
        self.name = name
        self.folder = folder
        self.log = folder / LOG
        self.reports: list[float] = []
        self.metrics: dict[str, float] = {}
        self.ended_early = False
        self.started = time.monotonic()
        self._deadline = self.started + limit
        self._overdue = False
        self._objective: str = document["spec"]["objective"]["objectiveMetricName"]
        wanted = document["spec"]["objective"].get("additionalMetricNames") or ()
        self._names = {self._objective, *wanted}
        self._pattern = metric_lines(document)
        self._read = 0
        own = {
            **{name: str(len(cores)) for name in _THREADS},
            **variables,
            FOLDER_VARIABLE: str(folder),
            LIFELINE_VARIABLE: str(lifeline),
            # Here the reason is read from the trial's own error.json.
            REASON_VARIABLE: "",
            "HOME": os.environ.get("HOME", "/"),
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lifeline],
                start_new_session=True,
            )
        with contextlib.suppress(OSError):
            os.sched_setaffinity(self._process.pid, cores)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def poll(self) -> bool:
        """Reads what was reported, ends what is overdue, and says whether the process has ended."""
        ended = self._process.poll() is not None
        self._collect(whole=ended)
        if not ended and time.monotonic() > self._deadline:
            self._overdue = True
            self.end()
            return True
        return ended

    def end(self) -> None:
        """Ends the process and its children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(GRACE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def error(self) -> str | None:
        """Returns why the trial failed; None if its process ended well."""
        code = self._process.returncode
        if self._overdue:
            return "it ran past its time limit (sweep.trial.timeout)"
        if code == 0:
            return None
        try:
            problem = json.loads((self.folder / ERROR_FILE).read_text())
            where = problem.get("where")
            # That it was a trial is plain.
            named = where is not None and where != "step tune"
            return f"{where}: {problem['what']}" if named else str(problem["what"])
        except (OSError, ValueError, KeyError):
            if code is not None and code < 0:
                return f"its process was ended by {signal.Signals(-code).name}"
            return f"its process ended with code {code}; its log says why"

    def _collect(self, *, whole: bool) -> None:
        with self.log.open("rb") as handle:
            handle.seek(self._read)
            content = handle.read()
        if not whole:
            content = content[: content.rfind(b"\n") + 1]
        self._read += len(content)
        for line in content.decode(errors="replace").splitlines():
            for match in self._pattern.finditer(line):
                if match[1] not in self._names:
                    continue
                try:
                    value = float(match[2])
                except ValueError:
                    continue
                self.metrics[match[1]] = value
                if match[1] == self._objective:
                    self.reports.append(value)
