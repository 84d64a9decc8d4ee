"""One supervised process: started in a session of its own, watched, restarted with back-off, stopped in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slipway.contracts.files import canonical_json, sha256_of
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.records import MARK, ProcessRecord, is_same, remove_record, start_time, write_record

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0
LOOP_RESTARTS, LOOP_SECONDS = 4, 60.0
# A process that has been ready for so long has put its crashes behind it.
SETTLED_SECONDS = 60.0
# Shorter silences are a busy machine, not a lost process.
UNREADY_AFTER_SECONDS = 3.0


@dataclass(frozen=True)
class ProcessSpec:
    """How a process is run.

    Attributes:
        environment: Variables added to those of the supervisor.
        ready: Asks the process whether it can do its work; may take a second or two, must not raise.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    arm: str | None = None
    replica: int | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of what runs: a process with another one is not this process."""
        return sha256_of(canonical_json([self.command, dict(self.environment), str(self.cwd)]))


class ManagedProcess:
    """A process that is kept running until it is asked to stop.

    Args:
        make_spec: Returns how to run it, asked before every start; its argument says that the process runs already,
            so that its ports are its own.
        layout: Where records and logs are kept.
        grace_seconds: Wait between SIGTERM and SIGKILL.
        say: Receives one line about everything that happens to it.
    """

    def __init__(
        self,
        make_spec: Callable[[bool], ProcessSpec],
        layout: PlaneLayout,
        *,
        grace_seconds: float,
        say: Callable[[str], None],
        longest_backoff_seconds: float = LONGEST_BACKOFF_SECONDS,
    ) -> None:
        self._make_spec = make_spec
        self._longest_backoff = longest_backoff_seconds
        self._layout = layout
        self._grace_seconds = grace_seconds
        self._say = say
        self.spec = make_spec(True)
        self.pid: int | None = None
        self.started_at = 0.0
        self.ready = False
        self.was_ready = False
        self.stopping = False
        self.restarts = 0
        self.last_exit: int | None = None
        self.crash_looping = False
        self._popen: subprocess.Popen[bytes] | None = None
        self._recent_restarts: deque[float] = deque(maxlen=LOOP_RESTARTS)
        self._crashes_in_a_row = 0
        self._next_start_at: float | None = None
        self._ready_since: float | None = None
        self._last_ready_at = 0.0
        self._kill_at: float | None = None
        self.next_probe_at = 0.0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def running(self) -> bool:
        """Whether the process lives, as far as the last `poll` saw."""
        return self.pid is not None

    @property
    def state(self) -> str:
        """One of starting, ready, unready, backing_off, stopping, stopped."""
        if self.stopping:
            return "stopping" if self.running else "stopped"
        if not self.running:
            return "backing_off" if self._next_start_at is not None else "stopped"
        if self.ready:
            return "ready"
        return "unready" if self.was_ready else "starting"

    def adopt(self, record: ProcessRecord) -> bool:
        """Takes over a process that an earlier supervisor started; returns whether it lives and is what is wanted."""
        if record.fingerprint != self.spec.fingerprint or not is_same(record.pid, record.started_at):
            return False
        self.pid, self.started_at, self.restarts = record.pid, record.started_at, record.restarts
        self._say(f"{self.name}: adopted process {self.pid}")
        return True

    def start(self) -> None:
        """Starts the process; a program that cannot be started counts as a crash."""
        self.spec = self._make_spec(False)
        self._next_start_at = None
        self.ready = self.was_ready = False
        self._ready_since = None
        self.next_probe_at = 0.0
        self._layout.logs.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(self.spec.environment)
        environment[MARK] = str(self._layout.root)
        try:
            with (self._layout.logs / f"{self.name}.log").open("ab") as log:
                self._popen = subprocess.Popen(
                    self.spec.command,
                    cwd=self.spec.cwd,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            self._say(f"{self.name}: cannot be started: {error}")
            self._crashed(127)
            return
        self.pid = self._popen.pid
        self.started_at = start_time(self.pid) or time.time()
        write_record(self._layout.processes, self._record())
        self._say(f"{self.name}: started process {self.pid}")

    def poll(self) -> None:
        """Notices an exit, restarts when its time has come, and ends a process that does not stop."""
        now = time.monotonic()
        if self.pid is not None:
            if self._has_exited():
                # The exit status of an adopted process went to the system's init.
                self._exited(self._popen.returncode if self._popen is not None else None)
            elif self._kill_at is not None and now >= self._kill_at:
                self._kill_at = None
                self._say(f"{self.name}: did not stop within {self._grace_seconds:g} s, ended")
                self._signal(signal.SIGKILL)
        elif self._next_start_at is not None and now >= self._next_start_at and not self.stopping:
            self.restarts += 1
            self._recent_restarts.append(now)
            full = len(self._recent_restarts) == LOOP_RESTARTS
            if full and now - self._recent_restarts[0] <= LOOP_SECONDS and not self.crash_looping:
                self.crash_looping = True
                self._say(f"{self.name}: crash loop, {LOOP_RESTARTS} restarts within {LOOP_SECONDS:g} s")
            self.start()

    def heard(self, ready: bool) -> None:
        """Takes what a probe said about the process."""
        now = time.monotonic()
        if not self.running or self.stopping:  # a probe's answer may be older than the order to stop
            return
        if ready:
            if not self.ready:
                self._say(f"{self.name}: ready")
                self._ready_since = now
            self.ready = self.was_ready = True
            self._last_ready_at = now
            if self._ready_since is not None and now - self._ready_since >= SETTLED_SECONDS:
                self._crashes_in_a_row = 0
                self.crash_looping = False
        elif self.ready and now - self._last_ready_at >= UNREADY_AFTER_SECONDS:
            self._say(f"{self.name}: no longer ready")
            self.ready = False
            self._ready_since = None

    def stop(self) -> None:
        """Asks the process to stop; `poll` ends it after the grace. Nothing happens the second time."""
        if self.stopping:
            return
        self.stopping = True
        self.ready = False
        self._next_start_at = None
        if self.pid is None:
            remove_record(self._layout.processes, self.name)
            return
        self._kill_at = time.monotonic() + self._grace_seconds
        self._signal(signal.SIGTERM)
        # A stopped process takes the signal only when it goes on.
        self._signal(signal.SIGCONT)

    def hang_up(self) -> None:
        """Asks the process to read its configuration again."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        # The id may be someone else's by now when the process was adopted, so its start time is compared first.
        if self.pid is not None and (self._popen is not None or is_same(self.pid, self.started_at)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _has_exited(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is not None
        return self.pid is None or not is_same(self.pid, self.started_at)

    def _exited(self, status: int | None) -> None:
        self.pid, self._popen, self._kill_at = None, None, None
        self.ready = False
        remove_record(self._layout.processes, self.name)
        if self.stopping:
            self._say(f"{self.name}: stopped")
        else:
            self._crashed(status)

    def _crashed(self, status: int | None) -> None:
        self.last_exit = status
        self._crashes_in_a_row += 1
        delay = min(self._longest_backoff, FIRST_BACKOFF_SECONDS * 2 ** min(self._crashes_in_a_row - 1, 16))
        self._next_start_at = time.monotonic() + delay
        how = "an unknown status" if status is None else f"signal {-status}" if status < 0 else f"status {status}"
        self._say(f"{self.name}: exited with {how}; starts again in {delay:g} s")

    def _record(self) -> ProcessRecord:
        assert self.pid is not None
        return ProcessRecord(
            name=self.name,
            pid=self.pid,
            started_at=self.started_at,
            fingerprint=self.spec.fingerprint,
            arm=self.spec.arm,
            replica=self.spec.replica,
            ports=dict(self.spec.ports),
            restarts=self.restarts,
        )
