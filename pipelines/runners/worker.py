"""The process that hands a pipeline to kfp.local; the local runner starts it as the leader of a process group.

kfp.local takes seconds to import, prints to stdout, changes the process's logging and leaves a step running when it is
told to stop. Here that harms nobody: output goes to the run's pipeline.log, and the group ends as one.

Arguments: the job's file, and the number of an inherited pipe that closes when the runner is gone.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

from slipway.pipelines.runners.job import Job


def main() -> int:
    """Runs the job and returns 0 if every step succeeded, else 1."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    threading.Thread(target=_end_with_the_runner, args=(int(sys.argv[2]),), daemon=True).start()
    warnings.filterwarnings("ignore", module="kfp")
    from kfp import local

    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(job.directory / "kfp"),
        # kfp.local deletes its workspace after a run: it gets a folder that holds nothing else.
        workspace_root=str(job.directory / "kfp" / "workspace"),
        raise_on_error=True,
    )
    module, _, function = job.pipeline.partition(":")
    pipeline = getattr(importlib.import_module(module), function)(job.settings)
    try:
        pipeline()
    except RuntimeError as error:
        # The step's own error is in its error.json; this line only says which step it was.
        print(error, file=sys.stderr)
        return 1
    return 0


def _end_with_the_runner(pipe: int) -> None:
    os.read(pipe, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Leave before the libraries tidy up: nothing of theirs outlives the process.
    os._exit(code)
