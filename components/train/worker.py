"""One of the processes that train together; `launch` starts it through torchrun's agent.

Argument: the folder that `launch` made, with the task; this process says there why it failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from slipway.components.progress import EventProgress, Progress
from slipway.components.train.fitting import fit
from slipway.components.train.launch import EVENTS_FILE, LOST, TASK_FILE, error_file
from slipway.components.train.step import TrainRequest
from slipway.contracts.errors import SlipwayError
from slipway.contracts.files import write_json

_PR_SET_PDEATHSIG = 1
# Of these libraries' errors, those that say that another process is gone. They have no type of their own.
_LOST_MARKS = ("Connection closed by peer", "Connection reset", "Broken pipe", "gloo", "NCCL", "Socket")


def main() -> int:
    """Trains this process's share and returns 0, or 1 having said why not."""
    scratch = Path(sys.argv[1])
    task = json.loads((scratch / TASK_FILE).read_text(encoding="utf-8"))
    _end_with(task["launcher"])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    progress = EventProgress(scratch / EVENTS_FILE, "train") if rank == 0 else Progress()
    try:
        request = TrainRequest.model_validate(task["request"])
        fit(request, Path(task["target"]) if rank == 0 else None, progress, processes=size)
    except SlipwayError as error:
        write_json(error_file(scratch, rank), error.to_dict())
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it was, the launcher must know
        traceback.print_exc()
        fault = SlipwayError(
            f"unexpected {type(error).__name__} in process {rank} of {size}: {str(error)[:500]}",
            where="step train",
            remedy="The traceback is in the log.",
        )
        content = fault.to_dict()
        if size > 1 and any(mark in str(error) for mark in _LOST_MARKS):
            content |= {
                "error": LOST,
                "what": f"process {rank} of {size} lost another one",
                "remedy": "Look for its error in the log, or in that of the other pods. Run the step again: it goes on "
                "from its last checkpoint.",
            }
        write_json(error_file(scratch, rank), content)
        return 1
    return 0


def _end_with(launcher: int) -> None:
    """Has the kernel kill this process when the launcher dies, in whatever way; on systems that can."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The other processes may be gone: nothing that the libraries would still say to them may hold this one up.
    os._exit(code)
