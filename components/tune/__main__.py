"""Runs one trial from the command line.

Katib joins a container's command into one text for a shell, in which quotes are lost. So the request and the values of
the parameters come in environment variables, as JSON: SLIPWAY_TRIAL_REQUEST and SLIPWAY_TRIAL_PARAMETERS. Arguments
work as with every step and come last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from slipway.components.harness import main
from slipway.components.tune.parameters import (
    FOLDER_VARIABLE,
    LIFELINE_VARIABLE,
    PARAMETERS_VARIABLE,
    REASON_VARIABLE,
    REQUEST_VARIABLE,
)
from slipway.components.tune.reports import report_line, tell_reason
from slipway.components.tune.step import TrialRequest, run
from slipway.contracts.files import write_json


def _end_with_the_sweep(pipe: int) -> None:
    """Ends this process when the one that started it is gone, however it went."""
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _from_environment(arguments: list[str]) -> list[str]:
    variables = {name: os.environ.get(name) for name in (REQUEST_VARIABLE, PARAMETERS_VARIABLE)}
    if not any(variables.values()):
        return arguments
    content: dict[str, Any] = json.loads(variables[REQUEST_VARIABLE] or "{}")
    if variables[PARAMETERS_VARIABLE]:
        content["parameters"] = json.loads(variables[PARAMETERS_VARIABLE] or "{}")
    request = Path("request.json")
    write_json(request, content)
    return ["--request", str(request), *arguments]


if __name__ == "__main__":
    lifeline = os.environ.pop(LIFELINE_VARIABLE, None)
    if lifeline is not None:
        threading.Thread(target=_end_with_the_sweep, args=(int(lifeline),), daemon=True).start()
    # Relative paths of the request, and result.json or error.json, are in the trial's own folder.
    os.chdir(os.environ.get(FOLDER_VARIABLE, "."))
    code = main("tune", TrialRequest, run, _from_environment(sys.argv[1:]), line=report_line)
    reason = os.environ.get(REASON_VARIABLE)
    if code != 0 and reason:
        tell_reason(Path(), Path(reason))
    sys.stdout.flush()
    sys.stderr.flush()
    # Large libraries take a second or two to come apart.
    os._exit(code)
