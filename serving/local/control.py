"""Starting, watching and stopping a plane from outside: what `slipway up` and `slipway down` do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from slipway.contracts.errors import LockHeldError, ServiceError, SlipwayError
from slipway.contracts.files import exclusive_lock
from slipway.serving.local import programs
from slipway.serving.local.desired import read_desired
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.logs import last_lines
from slipway.serving.local.observed import Observed, read_observed
from slipway.serving.local.ports import check_wanted
from slipway.serving.local.records import (
    ProcessRecord,
    is_same,
    marked_processes,
    read_records,
    remove_record,
    stop_processes,
)
from slipway.serving.local.settings import PlaneSettings, read_settings, write_settings

_POLL_SECONDS = 0.05
_SUPERVISOR_START_SECONDS = 30.0
_LETTING_GO_SECONDS = 2.0


@contextlib.contextmanager
def command_lock(project: Path, command: str) -> Iterator[None]:
    """Keeps two commands that start or stop the same plane apart.

    Raises:
        LockHeldError: Another one is at work; says which.
    """
    remedy = "Wait until it is done, then run the command again."
    with exclusive_lock(PlaneLayout(project).command_lock, holder=command, remedy=remedy):
        yield


def running_supervisor(project: Path) -> int | None:
    """Returns the process id of the plane's supervisor, or None when none lives."""
    for record in _supervisor_records(project):
        if is_same(record.pid, record.started_at):
            return record.pid
    return None


def is_running(project: Path) -> bool:
    """Returns whether a supervisor holds the plane."""
    layout = PlaneLayout(project)
    if not layout.lock.exists():
        return False
    try:
        with exclusive_lock(layout.lock, holder="a look", remedy=""):
            return False
    except LockHeldError:
        return True


def start(settings: PlaneSettings) -> bool:
    """Starts the supervisor of a plane in a session of its own; returns False when one is at work already.

    Raises:
        EnvironmentProblemError: A program is missing, or a port that the user set is in use.
        ServiceError: The supervisor ended at once.
    """
    for program in programs.REMEDIES:
        programs.find_program(program)
    if _is_held(settings.directory):
        return False
    layout = settings.layout
    # Processes that outlived their supervisor hold their ports rightly, and are taken over.
    owned = {port for record in read_records(layout.processes) for port in _live_ports(record)}
    check_wanted({name: port for name, port in settings.ports.items() if port not in owned})
    write_settings(settings)
    layout.logs.mkdir(parents=True, exist_ok=True)
    with layout.supervisor_log.open("ab") as log:
        supervisor = subprocess.Popen(
            (sys.executable, "-m", "slipway.serving.local", "--project", str(settings.directory)),
            cwd=settings.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    deadline = time.monotonic() + _SUPERVISOR_START_SECONDS
    while running_supervisor(settings.directory) != supervisor.pid and time.monotonic() < deadline:
        if supervisor.poll() is not None:
            lines = last_lines(layout.supervisor_log, 1)
            raise ServiceError(
                lines[-1].removeprefix("error: ") if lines else "the supervisor did not start",
                where="slipway up",
                remedy=f"See {layout.supervisor_log}",
            )
        time.sleep(_POLL_SECONDS)
    return True


def _is_held(project: Path) -> bool:
    """Returns whether a supervisor holds the plane, having waited for one that is just dying to let go of it."""
    deadline = time.monotonic() + _LETTING_GO_SECONDS
    while is_running(project):
        if running_supervisor(project) is not None or time.monotonic() > deadline:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def wait_until_ready(project: Path, *, seconds: float, progress: Callable[[str], None] = lambda _: None) -> Observed:
    """Waits until every service, and every arm that should have traffic, is ready and has its weight.

    Args:
        project: Folder of the project file.
        seconds: Longest wait.
        progress: Receives what is still waited for.

    Raises:
        ServiceError: The wait was in vain; names what is not ready and its log's last lines.
    """
    began = time.monotonic()
    waiting = ["the supervisor"]
    while time.monotonic() - began < seconds:
        observed = read_observed(project)
        supervisor = running_supervisor(project)
        # What an earlier supervisor wrote may still look fresh.
        if observed.is_fresh() and supervisor is not None and observed.supervisor_pid == supervisor:
            waiting = _not_ready(project, observed)
            if not waiting:
                return observed
            # A refused artifact does not become better by waiting.
            if any(arm.state == "failed" for arm in observed.arms.values()):
                break
        progress(", ".join(waiting))
        time.sleep(_POLL_SECONDS)
    raise ServiceError(
        f"not ready after {time.monotonic() - began:.0f} s: {_reasons(project, waiting)}",
        where="slipway up",
        remedy="See `slipway logs`; stop everything with `slipway down`.",
    )


def stop(project: Path, *, progress: Callable[[str], None] = lambda _: None) -> list[str]:
    """Stops a plane and whatever is left of one; returns the names of what ran. Does nothing where nothing runs.

    A supervisor that is there stops its processes itself, in the right order. Without one, every process that carries
    the plane's mark is asked to stop, and ended if it does not.
    """
    layout = PlaneLayout(project)
    names = [record.name for record in read_records(layout.processes) if is_same(record.pid, record.started_at)]
    try:
        settings = read_settings(project)
        patience = settings.grace_seconds * 4
    except SlipwayError:  # settings of another version must not keep a plane from being stopped
        patience = 80.0
    supervisor = running_supervisor(project)
    if supervisor is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while running_supervisor(project) is not None and time.monotonic() < deadline:
            left = [one.name for one in read_records(layout.processes)]
            progress(f"stopping {', '.join(left)}" if left else "stopping")
            time.sleep(_POLL_SECONDS)
        if running_supervisor(project) == supervisor:
            stop_processes([psutil.Process(supervisor)], grace_seconds=0.0)
    left_over = marked_processes(layout.root)
    stop_processes(left_over, grace_seconds=10.0)
    for record in read_records(layout.processes):
        remove_record(layout.processes, record.name)
    remove_record(layout.root, "supervisor")
    with contextlib.suppress(FileNotFoundError):
        layout.observed.unlink()
    return names or [f"process {process.pid}" for process in left_over]


def _supervisor_records(project: Path) -> list[ProcessRecord]:
    return [record for record in read_records(PlaneLayout(project).root) if record.name == "supervisor"]


def _live_ports(record: ProcessRecord) -> list[int]:
    return list(record.ports.values()) if is_same(record.pid, record.started_at) else []


def _not_ready(project: Path, observed: Observed) -> list[str]:
    waiting = [name for name, service in observed.services.items() if not service.ready]
    desired = read_desired(project)
    if desired.draws_users and observed.assignment_applied != "user":
        waiting.append("gateway to keep each user with an arm")
    for arm in desired.arms:
        weight = desired.weight(arm.name)
        status = observed.arms.get(arm.name)
        if weight > 0 and (status is None or status.ready < arm.replicas or status.weight_applied != weight):
            ready = 0 if status is None else status.ready
            routed = 0 if status is None else status.weight_applied
            waiting.append(
                f"{arm.name} ({ready} of {arm.replicas} ready)"
                if ready < arm.replicas
                else f"gateway to give {arm.name} its weight ({routed} of {weight})"
            )
    return waiting


def _reasons(project: Path, waiting: list[str]) -> str:
    observed = read_observed(project)
    parts = []
    for one in waiting:
        name = one.split(" ", 1)[0]
        arm = observed.arms.get(name)
        logs = [replica.name for replica in arm.replicas] if arm is not None else [name]
        lines = [line for log in logs for line in last_lines(PlaneLayout(project).logs / f"{log}.log", 1)]
        problem = arm.problem if arm is not None and arm.problem else (lines[-1] if lines else None)
        parts.append(f"{one}: {problem}" if problem else one)
    return "; ".join(parts) or "unknown"
