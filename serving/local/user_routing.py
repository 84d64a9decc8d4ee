"""The processes that draw an arm for each user: started where users are drawn, and stopped when nothing goes there.

They decide by a file alone and remember nothing, so that any number of them, restarted or not, gives a user the same
arm. There are two, so that a dead one costs no request and moves no user.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from slipway.contracts.files import write_atomically
from slipway.serving.local import programs
from slipway.serving.local.applied import AppliedRoutes
from slipway.serving.local.desired import Desired
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.ports import PortBook
from slipway.serving.local.process import ManagedProcess, ProcessSpec
from slipway.serving.local.settings import PlaneSettings

PROCESSES = 2
LAYER = "rollout"
"""Layer of the users' hash in which rollouts draw; experiments of other layers are independent of it."""
LONGEST_BACKOFF_SECONDS = 2.0
# Without any process the gateway's own health check sends requests past them; after this long, the routes do, and it
# is told that users are not drawn.
_PATIENCE_SECONDS = 3.0
_LETTING_GO_SECONDS = 1.0


class UserRouting:
    """Starts, watches and stops them.

    Args:
        settings: The plane's settings.
        ports: The plane's ports.
        say: Receives one line about everything that happens.
    """

    def __init__(self, settings: PlaneSettings, ports: PortBook, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._ports = ports
        self._say = say
        self._available = programs.has_module("slipway.serving.router")
        self._wanted = False
        self._last_wanted = 0.0
        self._secret: str | None = None
        self._last_ready = 0.0
        self._taking: set[str] = set()
        self._refused: dict[str, int] | None = None
        self.processes: dict[str, ManagedProcess] = {}

    def prepare(self, desired: Desired) -> None:
        """Makes the processes that `desired` needs, without starting them: some of them may run already."""
        self._wanted = desired.draws_users and self._write(desired)
        if not self._wanted:
            return
        for name in (f"{programs.ROUTER}-{number}" for number in range(PROCESSES)):
            if name not in self.processes:
                self.processes[name] = self._make(name)

    def step(self, desired: Desired, applied: AppliedRoutes | None) -> None:
        """Brings the processes one step closer to what is wanted.

        Args:
            desired: What the plane should run.
            applied: What the gateway said last; it must have let go of the processes before they stop.
        """
        now = time.monotonic()
        self.prepare(desired)
        if self._wanted:
            self._last_wanted = now
        # The gateway's last word may be older than the routes that named them.
        let_go = now - self._last_wanted > _LETTING_GO_SECONDS and applied is not None and applied.assignment != "user"
        for name, process in list(self.processes.items()):
            process.poll()
            if process.stopping:
                if not process.running:
                    del self.processes[name]
                    self._ports.release(f"{name}/")
            elif self._wanted:
                if process.state == "stopped":
                    process.start()
            elif let_go:
                process.stop()

    def urls(self) -> tuple[str, ...]:
        """Returns where public requests go; nothing where the gateway draws by itself."""
        if not self._wanted:
            self._taking.clear()
            return ()
        staying = {name: process for name, process in self.processes.items() if not process.stopping}
        ready = [name for name, process in staying.items() if process.ready]
        now = time.monotonic()
        if ready:
            self._last_ready = now
        elif now - self._last_ready > _PATIENCE_SECONDS:
            self._taking.clear()
        # One that died stays: the gateway sees it sooner, and requests that wait for another attempt when routes change
        # would go on trying what the old routes name.
        self._taking = (self._taking | set(ready)) & set(staying)
        return tuple(f"http://127.0.0.1:{staying[name].spec.ports['http']}" for name in sorted(self._taking))

    @property
    def metrics_addresses(self) -> tuple[str, ...]:
        """Where Prometheus finds how many users' requests each arm was given."""
        return tuple(f"127.0.0.1:{process.spec.ports['metrics']}" for process in self.processes.values())

    def _make(self, name: str) -> ManagedProcess:
        def make_spec(running: bool) -> ProcessSpec:
            return programs.router_spec(
                self._settings,
                name=name,
                port=self._ports.claim(f"{name}/http", in_use=running),
                metrics_port=self._ports.claim(f"{name}/metrics", in_use=running),
                upstream=f"http://127.0.0.1:{self._ports['gateway-assigned']}",
            )

        return ManagedProcess(
            make_spec,
            self._layout,
            grace_seconds=self._settings.grace_seconds,
            say=self._say,
            longest_backoff_seconds=LONGEST_BACKOFF_SECONDS,
        )

    def _write(self, desired: Desired) -> bool:
        """Writes the assignment; returns whether there is one to go by."""
        if not self._available or sum(desired.weights.values()) != 100:
            if self._refused != desired.weights:
                self._refused = dict(desired.weights)
                why = "weights do not sum to 100" if self._available else "the program is not installed"
                self._say(f"users cannot be drawn ({why}): requests are")
            return False
        document = assignment_document(desired, secret=self._project_secret())
        write_if_changed(self._layout.assignment, document)
        return True

    def _project_secret(self) -> str:
        if self._secret is None:
            self._secret = load_or_create_secret(self._layout)
        return self._secret


def assignment_document(desired: Desired, *, secret: str) -> str:
    """Returns the content of the file by which users are drawn.

    Args:
        desired: Weights, and the arms among which users are drawn.
        secret: The project's; with the names of the arms it is the salt that users are hashed with.
    """
    names = desired.experiment or tuple(desired.weights)
    weights = {name: desired.weight(name) for name in dict.fromkeys((*names, *desired.weights))}
    salt = "/".join((secret, *sorted(names)))
    return json.dumps({"salt": salt, "layer": LAYER, "arms": weights, "stable": names[0]}, indent=1) + "\n"


def load_or_create_secret(layout: PlaneLayout) -> str:
    """Returns the project's secret for drawing users, made at the first call.

    It is kept out of sight of others: who knows it could choose user ids that get a certain arm.
    """
    try:
        return layout.assignment_secret.read_text().strip()
    except FileNotFoundError:
        secret = secrets.token_hex(16)
        write_atomically(layout.assignment_secret, secret + "\n", mode=0o600)
        return secret


def write_if_changed(path: Path, text: str) -> bool:
    """Replaces a private file, by renaming, if it would change; returns whether it did."""
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text, mode=0o600)
    return True
