"""Ends a server of a test, also on a machine that is too busy for it to end by itself in time."""

from __future__ import annotations

import subprocess


def end(process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Asks a process to end, and ends it where it has not after `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)
