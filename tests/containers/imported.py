"""imported.py OUT MODULE [ARGUMENT ...]: runs a module as a program and writes which distributions it imported."""

import atexit
import importlib.metadata
import json
import os
import runpy
import sys
from pathlib import Path


def imported() -> dict[str, bool]:
    """Returns, for each installed distribution, whether a module of it is loaded."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {
        distribution.metadata["Name"].lower().replace("_", "-"): any(
            str(distribution.locate_file(file)) in loaded for file in distribution.files or ()
        )
        for distribution in importlib.metadata.distributions()
    }


if __name__ == "__main__":
    target, module, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    leave = os._exit

    def note() -> None:
        """Writes what is loaded now."""
        target.write_text(json.dumps(imported()))

    def note_and_leave(code: int) -> None:
        """Stands for os._exit, with which a trial ends."""
        note()
        leave(code)

    atexit.register(note)
    os._exit = note_and_leave
    runpy.run_module(module, run_name="__main__", alter_sys=True)
