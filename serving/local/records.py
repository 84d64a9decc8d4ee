"""Which processes belong to a plane: records on disk, and a mark in each process's environment.

A process is named by id and start time, since ids are used again. The mark finds children whose supervisor died between
starting them and writing their record, so that nothing is ever left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.files import write_atomically

MARK = "SLIPWAY_PLANE"
# psutil derives start times from the clock; a corrected clock moves them a little.
_SAME_START_SECONDS = 2.0


class ProcessRecord(BaseModel):
    """One process of a plane as it was started.

    Attributes:
        name: Unique in the plane, also the name of its log.
        fingerprint: Digest of command and environment: a process with another one is replaced, not adopted.
        started_at: Unix seconds; with the pid it identifies the process.
    """

    model_config = ConfigDict(extra="ignore")

    name: str
    pid: int
    started_at: float
    fingerprint: str
    arm: str | None = None
    replica: int | None = None
    ports: dict[str, int] = Field(default_factory=dict)
    restarts: int = 0


def start_time(pid: int) -> float | None:
    """Returns when a live process started, in Unix seconds, or None when there is none (a zombie is none)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None


def is_same(pid: int, started_at: float) -> bool:
    """Returns whether the process that started then lives under this id."""
    now = start_time(pid)
    return now is not None and abs(now - started_at) <= _SAME_START_SECONDS


def write_record(folder: Path, record: ProcessRecord) -> None:
    """Keeps a record under the process's name."""
    write_atomically(folder / f"{record.name}.json", record.model_dump_json(indent=2) + "\n")


def remove_record(folder: Path, name: str) -> None:
    """Forgets a process; nothing happens when it is unknown."""
    with contextlib.suppress(FileNotFoundError):
        (folder / f"{name}.json").unlink()


def read_records(folder: Path) -> list[ProcessRecord]:
    """Returns all records, by name; unreadable ones are left out (the mark still finds their processes)."""
    records = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValidationError):
            records.append(ProcessRecord.model_validate_json(path.read_bytes()))
    return records


def marked_processes(root: Path) -> list[psutil.Process]:
    """Returns the live processes of this user that carry the mark of the plane at `root`, this one left out."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def stop_processes(processes: Iterable[psutil.Process], *, grace_seconds: float) -> list[int]:
    """Asks processes to stop and ends those that do not within the grace; returns the ids of the latter."""
    living = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
            # A stopped process takes the signal only when it goes on.
            if process.status() == psutil.STATUS_STOPPED:
                process.send_signal(signal.SIGCONT)
            living.append(process)
    living = _wait(living, grace_seconds)
    ended = [process.pid for process in living]
    for process in living:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(living, 5.0)
    return ended


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while processes and time.monotonic() < deadline:
        processes = [process for process in processes if _lives(process)]
        if processes:
            time.sleep(0.05)
    return processes


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
